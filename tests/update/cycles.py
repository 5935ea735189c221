# SPDX-License-Identifier: GPL-2.0-or-later
"""Applying and reverting again and again: a few times here, and a thousand times by `make soak`."""

from __future__ import annotations

import os
from collections.abc import Callable

import hotpatch
from hotpatch.update.result import Result
from tests.support.programs import patch

PAIRS = int(os.environ.get("HOTPATCH_PAIRS", "30"))


def pairs(
    pid: int,
    count: int,
    path: str = "",
    each: Callable[[int], object] = lambda _: None,
) -> list[Result]:
    """Apply and revert a patch `count` times; `each` is called after a pair with its number."""
    results = []
    for number in range(1, count + 1):
        results += [hotpatch.apply(pid, path or patch("answer_2")), hotpatch.revert(pid)]
        each(number)
    return results


def held_us(results: list[Result]) -> int:
    """The time for which threads were held in all stops together, at the most."""
    return sum(stop.us for result in results for stop in result.stops)

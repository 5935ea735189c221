# SPDX-License-Identifier: GPL-2.0-or-later
"""Columns of a table, and the objects made of them, with no Python code per row."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from itertools import repeat
from typing import NamedTuple, TypeVar

_Row = TypeVar("_Row", bound=NamedTuple)


def column(raw: bytes, code: str, stride: int = 1, first: int = 0) -> list[int]:
    """Return every `stride`-th word of `raw`, whose length is a multiple of the stride.

    `code` is a word's struct format: "H", "I", "Q" or "q". `first` counts in words.
    """
    # memoryview can't cast an empty buffer.
    return memoryview(raw).cast(code)[first::stride].tolist() if raw else []  # type: ignore[call-overload]


def rows(kind: type[_Row], fields: Iterable[tuple[object, ...]]) -> list[_Row]:
    """Return a `kind` for each of `fields`, which must have the right number of values.

    The garbage collector rests meanwhile: it would look through the new objects again and again,
    which takes longer than making them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return list(map(tuple.__new__, repeat(kind), fields))
    finally:
        if enabled:
            gc.enable()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process has open and mapped, for tests that look for leaks."""

from __future__ import annotations

import gc
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support import proc

CYCLES = int(os.environ.get("HOTPATCH_PAIRS", "50"))
WARM_UP = 3  # cycles after which caches are filled and arenas made


class Footprint(NamedTuple):
    """How many mappings there are of each (permissions, file), and the open descriptors."""

    mappings: Counter[tuple[str, str]]
    descriptors: dict[int, str]


def of_target(pid: int) -> Footprint:
    """That of a server."""
    return Footprint(Counter((m.permissions, m.path) for m in proc.maps(pid)), descriptors(pid))


def of_patcher() -> Footprint:
    """That of this process, files only: how much memory of its own an interpreter keeps varies."""
    while gc.collect():
        pass
    mappings, links = of_target(os.getpid())
    return Footprint(Counter({key: n for key, n in mappings.items() if key[1]}), links)


def anonymous_of_patcher() -> int:
    """How many mappings without a file this process has."""
    return sum(not mapping.path for mapping in proc.maps(os.getpid()))


def descriptors(pid: int) -> dict[int, str]:
    """The open descriptors; not the one that this list is read by."""
    found = {}
    for link in list(Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(FileNotFoundError):
            found[int(link.name)] = str(link.readlink())
    return found

# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking through a process's writable memory for pointers into a range.

New code may have left addresses of the patch in the target's data: a string constant, a callback,
a buffer. As long as one is there, the patch's memory can't be given back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory
from hotpatch.quiescence.ranges import Ranges

_PIECE = 4 << 20


class Reference(NamedTuple):
    """A word at `address` that points to `target`."""

    address: int
    target: int


class Searchable(NamedTuple):
    """The populated pages of writable memory, as (start, end), and their size in all."""

    runs: tuple[tuple[int, int], ...]
    size: int


def searchable(pid: int, own: Iterable[tuple[int, int]]) -> Searchable:
    """Return what has to be searched: all writable memory but that of the ranges `own`."""
    own = list(own)
    runs: list[tuple[int, int]] = []
    for mapping in procfs.mappings(pid):
        inside = any(start <= mapping.start < end for start, end in own)
        if mapping.protection.startswith("rw") and not inside:
            runs += procfs.populated(pid, mapping.start, mapping.end)
    return Searchable(tuple(runs), sum(end - start for start, end in runs))


def search(memory: Memory, where: Searchable, ranges: Ranges) -> list[Reference]:
    """Return the words of some memory that point into `ranges`; unmapped memory has none."""
    found = []
    for start, end in where.runs:
        for piece in range(start, end, _PIECE):
            try:
                words = memory.read(piece, min(_PIECE, end - piece))
            except OSError:
                continue
            found += [Reference(piece + at, word) for at, word in ranges.search(words)]
    return found

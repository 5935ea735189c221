# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking through all of a process's memory for pointers into some regions of it.

New code may have left addresses of the patch in the target's data: a string constant, a callback,
a buffer. As long as one is there, the patch's memory can't be given back.

Searched is what the process has in memory of its own (anonymous pages, or private copies of a
file's), whatever its protection is now, and what it shares and may write to. Not searched are
files, pipes and what else the kernel keeps for it; nor addresses that are stored in disguise, or
not aligned to 8 bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from hotpatch.linux import procfs, ptrace
from hotpatch.linux.memory import Buffer, Memory
from hotpatch.linux.threads import Thread
from hotpatch.quiescence.ranges import Range, Ranges

_BATCH = 4 << 20
_DEVICE = frozenset(("io", "pf"))
_FAULTS = frozenset(("um", "uw", "ui"))

Span = tuple[int, int]


class Reference(NamedTuple):
    """A word at `address` that points to `target`; `holder` where it isn't in memory."""

    address: int
    target: int
    holder: str = ""


class Survey(NamedTuple):
    """Where a process's memory may hold pointers.

    `private` is all that a fork gives a copy of to the child; `apart` is what it doesn't: shared
    memory, and what was excepted by madvise(2) or lies in huge pages of hugetlbfs.
    """

    private: tuple[procfs.Area, ...]
    apart: tuple[procfs.Area, ...]

    @property
    def small_pages(self) -> int:
        """Return how much of the private memory lies in small pages, in bytes."""
        return sum(area.anonymous - area.huge for area in self.private)

    @property
    def size(self) -> int:
        """Return how much private memory there is, in bytes."""
        return sum(area.anonymous for area in self.private)

    @property
    def pieces_apart(self) -> list[tuple[int, int]]:
        """Return (address, size) of each area apart."""
        return [(area.start, area.end - area.start) for area in self.apart]

    @property
    def not_inherited(self) -> int:
        """Return the size of the areas that a child would not have, in bytes."""
        return sum(area.end - area.start for area in self.apart if "dc" in area.flags)

    def covers_apart(self, other: Survey) -> bool:
        """Say whether every area apart of another survey is one of this."""
        known = {(area.start, area.end) for area in self.apart}
        return all((area.start, area.end) in known for area in other.apart)

    @property
    def handled_by_others(self) -> bool:
        """Say whether some pages come from a handler of userfaultfd(2).

        A fork may wait for that handler, which may be one of the threads that are stopped.
        """
        return any(area.flags & _FAULTS for area in (*self.private, *self.apart))

    @property
    def space(self) -> int:
        """Return how much address space the private memory is spread over, in bytes."""
        return sum(area.end - area.start for area in self.private)

    @property
    def device(self) -> procfs.Area | None:
        """Return an area of device memory, which can't be searched, if there is one."""
        return next((area for area in self.apart if area.flags & _DEVICE), None)


def survey(pid: int, own: Iterable[Span]) -> Survey:
    """Look at a process's memory map, without the (start, end) of `own`; raises OSError."""
    areas = list(procfs.areas(pid))
    for span in own:
        areas = [part for area in areas for part in _without(area, span)]
    apart = tuple(area for area in areas if _is_apart(area))
    private = tuple(a for a in areas if not _is_apart(a) and (a.anonymous or a.flags & _FAULTS))
    return Survey(private, apart)


def _without(area: procfs.Area, span: Span) -> list[procfs.Area]:
    """Return what is left of an area: the kernel makes one of equal neighbours."""
    if area.end <= span[0] or span[1] <= area.start:
        return [area]
    below = area._replace(end=max(area.start, span[0]))
    above = area._replace(start=min(area.end, span[1]))
    return [part for part in (below, above) if part.start < part.end]


def _is_apart(area: procfs.Area) -> bool:
    """Say whether a child's copy of an area would not be one; VmFlags of proc_pid_smaps(5).

    "wf" is wiped in the child, "dc" not given to it, of "ht" the kernel may take pages from it.
    """
    if area.flags & {"dc", "wf"}:
        return True
    return area.protection[1] == "w" and (area.protection[3] == "s" or "ht" in area.flags)


def pointers(spans: Iterable[Span], few: bool = False) -> Ranges:
    """Return what finds pointers to the bytes of some (start, end), the first one included."""
    return Ranges((Range(start - 1, end, "") for start, end in spans), few)


def in_vectors(threads: Iterable[Thread], pointers: Ranges) -> bool:
    """Say whether a vector register of some stopped threads holds a pointer.

    Threads inside a system call are passed over: to a function that makes one, as to every
    other, all vector registers are the caller's to save (psABI 3.2.1).
    """
    running = [thread.tid for thread in threads if thread.registers.syscall is None]
    states = [ptrace.get_xstate(tid) for tid in running]
    return any(pointers.search(state) for state in states)


def search(memory: Memory, areas: Iterable[procfs.Area], pointers: Ranges) -> list[Reference]:
    """Return the pointers in the private memory of some areas; what can't be read has none."""
    found: list[Reference] = []
    runs = procfs.populated(memory.pid, [(area.start, area.end) for area in areas])
    buffer = Buffer(min(_BATCH, sum(end - start for start, end in runs)), pointers.lane)
    for batch in batches(runs, _BATCH):
        memory.copy(batch, buffer)
        found += search_copy(batch, buffer, pointers)
    return found


class Finder(Protocol):
    """What finds some words in a buffer of its lane: Ranges, for one."""

    lane: int

    def search_buffer(self, buffer: Buffer, size: int) -> list[tuple[int, int]]:
        """Return (offset, word) of each that is found in the first `size` bytes."""
        ...


def search_copy(
    pieces: Sequence[tuple[int, int]], copied: Buffer, pointers: Finder
) -> list[Reference]:
    """Return the pointers in (address, size) pieces that were copied one behind the other."""
    ends = list(accumulate(size for _, size in pieces))
    found = []
    for offset, word in pointers.search_buffer(copied, ends[-1] if ends else 0):
        at = bisect_right(ends, offset)
        address, size = pieces[at]
        found.append(Reference(address + offset - (ends[at] - size), word))
    return found


def batches(runs: Iterable[Span], most: int) -> Iterable[list[tuple[int, int]]]:
    """Return (address, size) pieces of all the runs, in lists that fit a buffer of that size."""
    batch: list[tuple[int, int]] = []
    room = most
    for start, end in runs:
        at = start
        while at < end:
            size = min(end - at, room)
            batch.append((at, size))
            at, room = at + size, room - size
            if not room:
                yield batch
                batch, room = [], most
    if batch:
        yield batch

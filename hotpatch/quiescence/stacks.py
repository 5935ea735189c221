# SPDX-License-Identifier: GPL-2.0-or-later
"""Copying the stacks of stopped threads, and scanning them without unwinding.

A thread's stack reaches from its stack pointer, less the red zone, to the end of the mapping, or
to the thread control block that the C library keeps at its top. A thread that runs elsewhere, on
an alternate signal stack or a coroutine's, has frames on its own stack too: those above the
lowest address of it that the other stack refers to, as the saved stack pointer is there.

Not looked at are the stacks of coroutines that no thread runs on at the moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from hotpatch.arch import registers
from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.linux import procfs
from hotpatch.linux.memory import Buffer, Memory
from hotpatch.linux.threads import Batch, Thread
from hotpatch.quiescence.ranges import Ranges

_USUAL = 1 << 20  # room for the stacks of a batch of threads


class Hit(NamedTuple):
    """A word of a thread's stack or registers that points into forbidden code."""

    tid: int
    address: int


class StackMap:
    """Where stacks can be: the writable mappings of a process, as of some moment."""

    def __init__(self, pid: int, mappings: Iterable[procfs.Mapping]) -> None:
        """Take the writable ones of `mappings`."""
        self._pid = pid
        self.refresh(mappings)

    def refresh(self, mappings: Iterable[procfs.Mapping]) -> None:
        """Take a newer map."""
        writable = [m for m in mappings if m.protection.startswith("rw")]
        self._starts = [m.start for m in writable]
        self._ends = [m.end for m in writable]
        self._main = next(((m.start, m.end) for m in writable if m.path == "[stack]"), None)

    def extent(self, address: int, thread_pointer: int) -> tuple[int, int] | None:
        """Return (start, end) of the stack that `address` lies in."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._ends[at]:
            return None
        end = self._ends[at]
        if address < thread_pointer <= end:
            end = thread_pointer
        return self._starts[at], end

    def home(self, thread: Thread) -> tuple[int, int] | None:
        """Return the stack that a thread was started on, as far as it can be told."""
        if thread.tid == self._pid:
            return self._main
        pointer = thread.registers.fs_base
        return self.extent(pointer - 8, pointer) if pointer else None

    def is_home(self, thread: Thread) -> bool:
        """Say whether a thread runs on the stack that it was started on."""
        home = self.home(thread)
        return home is not None and home[0] <= thread.registers.rsp - RED_ZONE < home[1]


class Scanner:
    """Scans the stacks and registers of stopped threads, some threads at a time.

    That may be done while other threads still run: nobody else writes the frames of a
    thread that is stopped.
    """

    def __init__(self, memory: Memory, stacks: StackMap, ranges: Ranges) -> None:
        """Prepare to search for words that point into `ranges`."""
        self.hits: list[Hit] = []
        self._memory = memory
        self._stacks = stacks
        self._ranges = ranges
        self._buffer = Buffer(_USUAL)

    def add(self, batch: Batch) -> None:
        """Scan some threads; adds to `hits`."""
        threads = batch.threads
        size = len(threads) * registers.SIZE
        for at, word in self._ranges.search_buffer(batch.states, size):
            self.hits.append(Hit(threads[at // registers.SIZE].tid, word))
        pieces, away = _pieces(threads, self._stacks, self._memory.pid)
        self._scan(threads, pieces)
        if away:
            total = sum([size for _, size in pieces])
            copied = self._buffer.content(0, total)
            more = _home_pieces(threads, away, pieces, copied, self._stacks)
            self._scan(threads, more)

    def _scan(self, threads: Sequence[Thread], pieces: Sequence[tuple[int, int]]) -> None:
        total = sum([size for _, size in pieces])
        self._copy(pieces, total)
        found = self._ranges.search_buffer(self._buffer, total)
        if not found:
            return
        ends = list(accumulate(size for _, size in pieces))
        self.hits += [Hit(threads[bisect_right(ends, at)].tid, word) for at, word in found]

    def _copy(self, pieces: Sequence[tuple[int, int]], total: int) -> None:
        """Copy pieces one behind the other; what can't be read any more is left zero.

        The buffer is used again and again: new memory would cost more than the copying.
        """
        if self._buffer.size < total:
            self._buffer = Buffer(total)
        if not total or self._memory.read_many(pieces, self._buffer) == total:
            return
        at = self._buffer.start
        for address, size in pieces:
            part = Buffer(size)
            if size:
                self._memory.read_many(((address, size),), part)
            self._buffer.data[at : at + size] = part.content(0, size)
            at += size


def _pieces(
    threads: Sequence[Thread], stacks: StackMap, pid: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """Return (address, size) of each thread's current stack, and the indices of those not at home.

    A stack that the map doesn't have is a new one: the map is then read again.
    """
    pieces, away = [], []
    for index, thread in enumerate(threads):
        rsp, pointer = thread.registers.rsp, thread.registers.fs_base
        extent = stacks.extent(rsp, pointer)
        if extent is None:
            stacks.refresh(procfs.mappings(pid))
            extent = stacks.extent(rsp, pointer)
        if extent is None:  # no stack at all: nothing can return through it
            pieces.append((rsp, 0))
            continue
        start = max(rsp - RED_ZONE, extent[0])
        pieces.append((start, (extent[1] - start) & -8))
        if extent[1] != pointer and not stacks.is_home(thread):
            away.append(index)
    return pieces, away


def _home_pieces(
    threads: Sequence[Thread],
    away: list[int],
    pieces: list[tuple[int, int]],
    copied: bytearray,
    stacks: StackMap,
) -> list[tuple[int, int]]:
    """Return what is in use of the own stacks of threads that run elsewhere."""
    offsets, total = [], 0
    for _, size in pieces:
        offsets.append(total)
        total += size
    result = [(0, 0)] * len(threads)
    for index in away:
        home = stacks.home(threads[index])
        if home is None:
            continue
        words = memoryview(copied)[offsets[index] : offsets[index] + pieces[index][1]].cast("Q")
        inside = [word for word in words if home[0] <= word < home[1]]
        if inside:
            start = max(min(inside) - RED_ZONE & -8, home[0])
            result[index] = (start, home[1] - start & -8)
    return result

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
from typing import NamedTuple

from hotpatch.arch import registers
from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import Hold, Thread
from hotpatch.quiescence.ranges import Ranges


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


def scan(hold: Hold, memory: Memory, stacks: StackMap, ranges: Ranges) -> list[Hit]:
    """Return every word on the stacks and in the registers of all held threads that hits."""
    threads = list(hold.threads.values())
    hits = _search(ranges, threads, b"".join([bytes(t.registers) for t in threads]), registers.SIZE)
    pieces, away = _pieces(threads, stacks, memory.pid)
    copied = _copy(memory, pieces)
    hits += _search_pieces(ranges, threads, pieces, copied)
    if away:
        more = _home_pieces(threads, away, pieces, copied, stacks)
        hits += _search_pieces(ranges, threads, more, _copy(memory, more))
    return hits


def _search(ranges: Ranges, threads: list[Thread], words: bytes, each: int) -> list[Hit]:
    return [Hit(threads[at // each].tid, word) for at, word in ranges.search(words)]


def _pieces(
    threads: list[Thread], stacks: StackMap, pid: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """Return (address, size) of each thread's current stack, and the indices of those not at home.

    A stack that the map doesn't have is a new one: the map is then read again.
    """
    pieces, away = [], []
    for index, thread in enumerate(threads):
        rsp = thread.registers.rsp
        extent = stacks.extent(rsp, thread.registers.fs_base)
        if extent is None:
            stacks.refresh(procfs.mappings(pid))
            extent = stacks.extent(rsp, thread.registers.fs_base)
        if extent is None:  # no stack at all: nothing can return through it
            pieces.append((rsp, 0))
            continue
        start = max(rsp - RED_ZONE, extent[0])
        pieces.append((start, (extent[1] - start) & -8))
        if not stacks.is_home(thread):
            away.append(index)
    return pieces, away


def _copy(memory: Memory, pieces: Sequence[tuple[int, int]]) -> bytearray:
    """Copy pieces one behind the other; what can't be read any more is left zero."""
    total = sum(size for _, size in pieces)
    copied = bytearray(total)
    if total and memory.read_many(pieces, copied) != total:
        copied = bytearray()
        for address, size in pieces:
            part = bytearray(size)
            if size:
                memory.read_many(((address, size),), part)
            copied += part
    return copied


def _search_pieces(
    ranges: Ranges, threads: list[Thread], pieces: Sequence[tuple[int, int]], copied: bytearray
) -> list[Hit]:
    found = ranges.search(copied)
    if not found:
        return []
    ends, total = [], 0
    for _, size in pieces:
        total += size
        ends.append(total)
    return [Hit(threads[bisect_right(ends, at)].tid, word) for at, word in found]


def _home_pieces(
    threads: list[Thread],
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

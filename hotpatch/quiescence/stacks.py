# SPDX-License-Identifier: GPL-2.0-or-later
"""Copying the stacks of stopped threads, and scanning them without unwinding.

A thread's stack reaches from its stack pointer, less the red zone, to the end of the mapping, or
to the thread control block that the C library keeps at its top. A thread that runs elsewhere, on
an alternate signal stack or a coroutine's, has frames on its own stack too: those above the
lowest address of it that the other stack refers to, as the saved stack pointer is there.

The stacks of coroutines that no thread runs on at the moment are `quiescence.coroutines`' business.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
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

    def home(self, tid: int, pointer: int) -> tuple[int, int] | None:
        """Return the stack that a thread with this thread pointer was started on.

        That is as far as it can be told.
        """
        if tid == self._pid:
            return self._main
        return self.extent(pointer - 8, pointer) if pointer else None

    def is_home(self, thread: Thread) -> bool:
        """Say whether a thread runs on the stack that it was started on."""
        home = self.home(thread.tid, thread.registers.fs_base)
        return home is not None and home[0] <= thread.registers.rsp - RED_ZONE < home[1]


class Scanner:
    """Scans the stacks and registers of stopped threads, some threads at a time.

    That may be done while other threads still run: nobody else writes the frames of a
    thread that is stopped.
    """

    def __init__(self, memory: Memory, stacks: StackMap, ranges: Ranges) -> None:
        """Prepare to search for words that point into `ranges`."""
        self.hits: list[Hit] = []
        self.away = False  # whether some thread runs on another stack than its own
        self._memory = memory
        self._stacks = stacks
        self._ranges = ranges
        self._buffer = Buffer(_USUAL, ranges.lane)

    def add(self, batch: Batch) -> None:
        """Scan some threads; adds to `hits`."""
        tids = [thread.tid for thread in batch.threads]
        pointers = list(zip(batch.column("rsp"), batch.column("fs_base"), strict=True))
        pieces, away = self._pieces(tids, pointers)
        self._scan(tids, pieces, batch.content())
        if away:
            self.away = True
            self._scan(tids, self._home_pieces(tids, pointers, away, pieces), b"")

    def _scan(
        self, tids: Sequence[int], pieces: Sequence[tuple[int, int]], states: bytes | bytearray
    ) -> None:
        """Search a piece of memory of each thread, and their registers before it."""
        ends = list(accumulate([size for _, size in pieces], initial=len(states)))
        self._copy(pieces, states, ends)
        for at, word in self._ranges.search_buffer(self._buffer, ends[-1]):
            index = at // registers.SIZE if at < ends[0] else bisect_right(ends, at) - 1
            self.hits.append(Hit(tids[index], word))

    def _copy(
        self,
        pieces: Sequence[tuple[int, int]],
        states: bytes | bytearray,
        ends: Sequence[int],
    ) -> None:
        """Copy registers and pieces one behind the other; what can't be read is left zero.

        The buffer is used again and again: new memory would cost more than the copying.
        """
        first, total = ends[0], ends[-1]
        if self._buffer.size < total:
            self._buffer = Buffer(total, self._ranges.lane)
        self._buffer.put(0, states)
        if self._memory.read_many(pieces, self._buffer, first) == total - first:
            return
        for piece, at in zip(pieces, ends, strict=False):
            part = Buffer(piece[1])
            if part.size:
                self._memory.read_many((piece,), part)
            self._buffer.put(at, part.content(0, part.size))

    def _pieces(
        self, tids: Sequence[int], pointers: Sequence[tuple[int, int]]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """Return (address, size) of each current stack, and the indices of those not at home.

        `pointers` are stack pointer and thread pointer of each thread. A stack that the map doesn't
        have is a new one: the map is then read again.
        """
        pieces, away = [], []
        for index, (rsp, pointer) in enumerate(pointers):
            extent = self._stacks.extent(rsp, pointer)
            if extent is None:
                self._stacks.refresh(procfs.mappings(self._memory.pid))
                extent = self._stacks.extent(rsp, pointer)
            if extent is None:  # no stack at all: nothing can return through it
                pieces.append((rsp, 0))
                continue
            start = max(rsp - RED_ZONE, extent[0])
            pieces.append((start, (extent[1] - start) & -8))
            if extent[1] != pointer:
                home = self._stacks.home(tids[index], pointer)
                if home is None or not home[0] <= rsp - RED_ZONE < home[1]:
                    away.append(index)
        return pieces, away

    def _home_pieces(
        self,
        tids: Sequence[int],
        pointers: Sequence[tuple[int, int]],
        away: Sequence[int],
        pieces: Sequence[tuple[int, int]],
    ) -> list[tuple[int, int]]:
        """Return what is in use of the own stacks of threads that run elsewhere.

        To be called when the buffer has `pieces`, behind the registers.
        """
        ends = list(accumulate([size for _, size in pieces], initial=len(tids) * registers.SIZE))
        result = [(0, 0)] * len(tids)
        for index in away:
            home = self._stacks.home(tids[index], pointers[index][1])
            if home is None:
                continue
            words = self._buffer.words[ends[index] >> 3 : ends[index + 1] >> 3]
            inside = [word for word in words if home[0] <= word < home[1]]
            if inside:
                start = max(min(inside) - RED_ZONE & -8, home[0])
                result[index] = (start, home[1] - start & -8)
        return result


class Copier(Scanner):
    """Keeps copies of the stacks as well, to be unwound when the threads run again."""

    def __init__(self, memory: Memory, stacks: StackMap, ranges: Ranges) -> None:
        """As a Scanner."""
        super().__init__(memory, stacks, ranges)
        self._copies: dict[int, list[tuple[int, bytes]]] = {}

    def _scan(
        self, tids: Sequence[int], pieces: Sequence[tuple[int, int]], states: bytes | bytearray
    ) -> None:
        super()._scan(tids, pieces, states)
        at = len(states)
        for tid, (address, size) in zip(tids, pieces, strict=True):
            if size:
                copy = (address, bytes(self._buffer.content(at, size)))
                self._copies.setdefault(tid, []).append(copy)
            at += size

    def reader(self, tid: int) -> Callable[[int, int], bytes]:
        """Return what reads memory as it was for a thread; what is no stack of it, as it is now."""
        copies = self._copies.get(tid, [])

        def read(address: int, size: int) -> bytes:
            for start, content in copies:
                if address < start + len(content) and start < address + size:
                    offset = address - start
                    if offset < 0 or offset + size > len(content):
                        raise OSError(14, f"{size} bytes at {address:#x} are not all in the stack")
                    return content[offset : offset + size]
            return self._memory.read(address, size)

        return read

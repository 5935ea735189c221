# SPDX-License-Identifier: GPL-2.0-or-later
"""The dead part of stacks: what lies below the stack pointer of the thread that they belong to.

Calls that have returned leave their words there, until another call overwrites them. Nobody reads
them any more, so they are not references.

Where a stack begins has to be known for sure: a thread may have been given a piece of the heap, and
what lies below that is somebody else's. The main thread has [stack]. For the others the C library
notes start and size in its thread descriptor, which lies at the top of the stack (`stackblock` and
`stackblock_size` in struct pthread of glibc, `map_base` and `map_size` in that of musl): the
first pair of words there that can mean just this is taken. A thread that runs on another
stack than its own, or whose descriptor tells nothing, has no dead part.
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise

from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import Thread

_PAGE = 4096
_LARGEST = 1 << 34


class DeadStacks:
    """The dead parts of the stacks of some threads, as of the stop that has their registers."""

    def __init__(self, pid: int, threads: Iterable[Thread], memory: Memory) -> None:
        """Look at threads of process `pid`, whose memory is read through `memory`."""
        self._pid = pid
        self._memory = memory
        self._threads = sorted(threads, key=lambda thread: thread.registers.rsp)
        self._pointers = [thread.registers.rsp for thread in self._threads]
        self._starts: dict[int, int | None] = {}

    def cover(self, address: int) -> bool:
        """Say whether an address lies in the dead part of a stack."""
        at = bisect_right(self._pointers, address + RED_ZONE)
        if at == len(self._threads):
            return False
        thread = self._threads[at]
        if thread.tid not in self._starts:
            self._starts[thread.tid] = self._start(thread)
        start = self._starts[thread.tid]
        return start is not None and start <= address

    def _start(self, thread: Thread) -> int | None:
        """Return where the stack begins on which a thread runs, if that is its own."""
        rsp, pointer = thread.registers.rsp, thread.registers.fs_base
        if thread.tid == self._pid:
            stacks = (m for m in procfs.mappings(self._memory.pid) if m.path == "[stack]")
            return next((m.start for m in stacks if m.start <= rsp < m.end), None)
        for start, size in _pairs(self._memory, pointer):
            inside = start <= rsp < pointer < start + size
            if inside and size < _LARGEST and not (start | size) % _PAGE:
                return start
        return None


def _pairs(memory: Memory, address: int) -> Iterable[tuple[int, int]]:
    """Return each two neighbouring words from an address on, as far as a descriptor may reach."""
    first = _PAGE - address % _PAGE
    for size in (first + _PAGE, first):
        with contextlib.suppress(OSError):
            words = struct.unpack(f"<{size // 8}Q", memory.read(address, size & -8))
            return pairwise(words)
    return ()

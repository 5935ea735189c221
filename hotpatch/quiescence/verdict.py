# SPDX-License-Identifier: GPL-2.0-or-later
"""Which threads really are in the way, of those whose stacks hold suspicious words.

A word that points into forbidden code may be stale: left over from a call that has returned, in a
local variable that nobody has written yet. So a thread with such words is unwound; where its
stack is known to the outermost frame, its frames are what counts, otherwise its words.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.errors import Gone
from hotpatch.linux import procfs
from hotpatch.linux.procfs import Sleep
from hotpatch.linux.threads import Thread
from hotpatch.process.image import Process
from hotpatch.quiescence.glance import asleep_inside
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.stacks import Hit, StackMap

if TYPE_CHECKING:  # most updates find no word that would have to be judged
    from hotpatch.quiescence.unwind import Frame, Stack, Unwinder

_BUDGET_NS = 1_000_000  # what unwinding may add to a stop


class Blocked(NamedTuple):
    """A thread in the way: the addresses that block, and its frames as far as they are known."""

    tid: int
    addresses: tuple[int, ...]
    frames: tuple[Frame, ...]


class Judge:
    """Unwinds suspicious threads; what it learns of the code makes the next time quick."""

    def __init__(self, process: Process) -> None:
        """Judge threads of `process`, as its memory map is now."""
        self._process = process
        self._unwinder: Unwinder | None = None

    def judge(
        self, hits: Sequence[Hit], threads: dict[int, Thread], stacks: StackMap, ranges: Ranges
    ) -> list[Blocked]:
        """Return those of the stopped threads with hits that are in the way.

        Made for the inside of a stop: nothing is unwound before `learn` was called, and not
        for longer than a millisecond; who was not unwound counts as in the way.
        """
        began = time.perf_counter_ns()
        blocked = []
        for tid, addresses in by_thread(hits).items():
            stack = None
            if self._unwinder is not None and time.perf_counter_ns() - began < _BUDGET_NS:
                stack = self._unwind(self._unwinder, threads[tid])
            if stack is None or not self._is_whole(stack, threads[tid], stacks):
                blocked.append(Blocked(tid, addresses, stack.frames if stack else ()))
                continue
            inside = tuple(f.pc for f in stack.frames if ranges.find(f.pc) is not None)
            if inside:
                blocked.append(Blocked(tid, inside, stack.frames))
        return blocked

    def glance(
        self, sleeps: Mapping[int, Sleep], stacks: StackMap, ranges: Ranges
    ) -> list[Blocked]:
        """Return the threads that sleep inside of `ranges` for sure, without stopping any."""

        def unwind(sleep: Sleep) -> Stack:
            return self._ready().unwind_from(sleep.rip, sleep.rsp, self._process.read)

        found = asleep_inside(self._process.memory, sleeps, stacks, ranges, unwind)
        return [
            Blocked(tid, tuple(f.pc for f in stack.frames if ranges.find(f.pc)), stack.frames)
            for tid, stack in found.items()
        ]

    def follow(self, mappings: Sequence[procfs.Mapping]) -> None:
        """Take notice of a newer memory map: code may have come and gone."""
        if self._unwinder is not None:
            self._unwinder.follow(mappings)

    def learn(self, threads: Iterable[Thread]) -> None:
        """Unwind threads that run again, to know the code that they were in.

        What comes of it may be nonsense, and is not used: the rules for their code are
        what stays.
        """
        unwinder = self._ready()
        for thread in threads:
            self._unwind(unwinder, thread)

    def _ready(self) -> Unwinder:
        from hotpatch.quiescence.unwind import Unwinder  # noqa: PLC0415

        if self._unwinder is None:
            self._unwinder = Unwinder(self._process)
        return self._unwinder

    def _unwind(self, unwinder: Unwinder, thread: Thread) -> Stack | None:
        try:
            return unwinder.unwind(thread.registers, self._process.read)
        except Gone:
            return None

    @staticmethod
    def _is_whole(stack: Stack, thread: Thread, stacks: StackMap) -> bool:
        """Say whether the frames are all that the thread will return through.

        On another stack than its own, they are only if they lead back to that one.
        """
        if not stack.complete:
            return False
        home = stacks.home(thread.tid, thread.registers.fs_base)
        if home is None:
            return False
        return any(home[0] <= frame.cfa <= home[1] for frame in stack.frames)


def unjudged(hits: Iterable[Hit]) -> list[Blocked]:
    """Return every thread with a hit as one that is in the way."""
    return [Blocked(tid, addresses, ()) for tid, addresses in by_thread(hits).items()]


def by_thread(hits: Iterable[Hit]) -> dict[int, tuple[int, ...]]:
    """Return the words that hit, by thread."""
    found: dict[int, tuple[int, ...]] = {}
    for hit in hits:
        found[hit.tid] = (*found.get(hit.tid, ()), hit.address)
    return found

# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has to be let pass of the callers that are made to wait.

A call that is made inside of a replaced function must not wait: its caller would never run out. It
is seen by its stack; to a caller that makes many of them the door stays open until it has returned.
And where a call sleeps for a lock, the caller that holds it has to go on.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from hotpatch.arch import syscalls
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import Thread
from hotpatch.process import ledger
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.verdict import Blocked

FUTEX = (syscalls.FUTEX, syscalls.RESTART_SYSCALL)  # what it is after an earlier stop
_FUTEX_TID_MASK = 0x3FFFFFFF
_MOST_PASSED = 8  # calls inside of a call, one by one

Waiting = Mapping[int, ledger.Function]
"""The function at whose gate a thread waits, by thread id."""


class Passing:
    """What is known of the callers and calls of one drain; a call is a thread and a CFA."""

    def __init__(self, memory: Memory, guessing: bool) -> None:
        """Begin with nothing known; `guessing`: also let pass who may hold a lock, one by one."""
        self._memory = memory
        self._guessing = guessing
        self._passed: dict[tuple[int, int], int] = {}
        self._calls: dict[int, set[tuple[int, int]]] = {}
        self._asleep: set[tuple[int, int, int]] = set()
        self._turns: dict[int, int] = {}

    def look(
        self,
        waiting: Waiting,
        threads: Mapping[int, Thread],
        blocked: Sequence[Blocked],
        ranges: Ranges,
    ) -> set[int]:
        """Return the threads to be let pass, of stopped ones."""
        inner = self._inner_calls(waiting, blocked, ranges)
        return inner | self._lock_holders(waiting, threads, blocked)

    def open_doors(self) -> set[int]:
        """Return the doors that have to be open for calls that make many others."""
        return {door for door, calls in self._calls.items() if calls}

    def _inner_calls(
        self, waiting: Waiting, blocked: Sequence[Blocked], ranges: Ranges
    ) -> set[int]:
        """Return the waiting threads that have called from inside of a replaced function."""
        passing, active = set(), set()
        for thread in blocked:
            inside = [frame for frame in thread.frames if ranges.find(frame.pc) is not None]
            if not inside:
                continue
            call = (thread.tid, inside[-1].cfa)
            active.add(call)
            function = waiting.get(thread.tid)
            if function is None or function.point:
                continue
            passing.add(thread.tid)
            self._passed[call] = self._passed.get(call, 0) + 1
            if self._passed[call] > _MOST_PASSED:
                self._calls.setdefault(function.door, set()).add(call)
        for calls in self._calls.values():
            calls.intersection_update(active)
        return passing

    def _lock_holders(
        self, waiting: Waiting, threads: Mapping[int, Thread], blocked: Sequence[Blocked]
    ) -> set[int]:
        """Return the waiting threads that hold a lock for which one in the way sleeps, or may.

        It sleeps at the same futex since the last look. Most locks have the id of their owner in
        the word that is slept at (futex(2), FUTEX_LOCK_PI; musl), or beside it (glibc's mutexes).
        Where none of those is one that waits, it may be tried with each in turn; but it may as
        well be something else than a lock.
        """
        before = self._asleep
        self._asleep = {
            (thread.tid, registers.rsp, registers.rdi)
            for thread in blocked
            if (registers := threads[thread.tid].registers).syscall in FUTEX
            and thread.tid not in waiting
        }
        stuck = before & self._asleep
        holders = {tid for _, _, lock in stuck for tid in self._owners(lock)} & waiting.keys()
        if stuck and waiting and not holders and self._guessing:
            guess = min(waiting, key=lambda tid: self._turns.get(tid, 0))
            self._turns[guess] = self._turns.get(guess, 0) + 1
            holders = {guess}
        return holders

    def _owners(self, lock: int) -> set[int]:
        """Return what may be the thread id of a lock's owner."""
        try:
            words = struct.unpack("<4I", self._memory.read(lock, 16))
        except OSError:
            return set()
        return {word & _FUTEX_TID_MASK for word in words}

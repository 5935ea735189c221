# SPDX-License-Identifier: GPL-2.0-or-later
"""Drain: callers wait in the gates while the calls that are in the functions run out.

For functions in which some thread is at every instant. The gates are armed; the doors are shut, the
switch says that callers have to look at them, and who calls now sleeps in its gate
(trampolines/x86_64/gate_wait.S), where it is in no function's way. The update is tried in short
intervals meanwhile. Its commit is the store of the switch as always, and the sleepers, stopped for
it like every thread, see an open door when they run again: nobody has to be woken.

A drain has an end that the target itself sees to: no caller waits beyond the deadline, and the
first to wake by it opens the door for all. That is what happens when the patcher dies, and when the
calls can't run out because a caller that waits holds a lock which one of them wants. The
target is then as old as before, and another drain, longer than the last one, follows only after a
while.

Some of the callers are let pass (`update.passing`).

An update point is a function whose callers wait as well. A thread that waits there is in nobody's
way, whatever is on its stack: that is what the author of the patch says. As long as nobody has
come to it, its door stays shut.
"""

from __future__ import annotations

import contextlib
import struct
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from hotpatch.arch import syscalls
from hotpatch.errors import Denied, Gone
from hotpatch.linux import procfs, seccomp
from hotpatch.linux.priority import raise_priority
from hotpatch.linux.threads import Thread, Unstoppable
from hotpatch.process import ledger
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.verdict import Blocked
from hotpatch.update.passing import FUTEX, Passing
from hotpatch.update.session import Session

_LENGTHS_S = (0.01, 0.02, 0.04, 0.08, 0.16)
_LEAST_S = 0.004
_NAP_S = 0.001
_LAST_S = 0.002  # before the deadline is the last try
_POINT_S = 0.05
_PART = 10  # of a drain: the time between two tries
_REST, _LAST_REST = 1, 100  # times its length; the last after the lengths are used up
_MARGIN = 0.8  # of --max-pause: a thread is woken some time after the deadline
_OPEN, _SHUT = 0, 1
_FUTEX_WAIT_BITSET_PRIVATE, _ANY = 137, 0xFFFFFFFF


class Drain:
    """The drains of one update; a context manager, at whose end the doors are open."""

    def __init__(self, session: Session, header: int, record: ledger.Record, switch: int) -> None:
        """Prepare; `header` is the address of the record, `switch` what the switch says now."""
        self.tried = 0
        self.longest_s = 0.0
        self._session = session
        self._memory = session.process.memory
        self._switch, self._on = header + ledger.SWITCH_OFFSET, switch
        self._tables = record.doors
        self._functions = sorted(
            (f for f in record.functions if f.door), key=lambda function: function.waiting
        )
        self._starts = [function.waiting[0] for function in self._functions]
        self._points = {function.door for function in self._functions if function.point}
        self._all = {function.door for function in self._functions}
        self._wanted: set[int] = set()  # doors that this drain is to shut
        self._shut: set[int] = set()
        self._passing = Passing(self._memory, False)
        self._hurry = self._failed_once = self._is_due = False
        self._since = self._until = self._rested = 0.0
        self._waited = False
        self._allowed: bool | None = None
        self._context = contextlib.ExitStack()

    def __enter__(self) -> Drain:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Open the doors."""
        with self._context, contextlib.suppress(Gone, OSError):
            self.end()

    @property
    def running(self) -> bool:
        """Say whether callers are made to wait now."""
        return self._until > 0

    @property
    def nap_s(self) -> float | None:
        """Return how long to wait at most before another try, None for no matter."""
        if not self.running:
            soon = self._is_due and self.tried < len(_LENGTHS_S)
            return max(_NAP_S, self._rested - time.monotonic()) if soon else None
        part = _NAP_S if self._hurry else (self._until - self._since) / _PART
        left = self._until - _LAST_S - time.monotonic()
        return min(max(_NAP_S, part), _POINT_S / _PART, max(0, left))

    @property
    def is_pressing(self) -> bool:
        """Say whether callers wait, or may, so that tries are worth their cost."""
        return self.running and (self._waited or not self._points)

    def has_points(self) -> bool:
        """Say whether the update has update points."""
        return bool(self._points)

    def proceed(self, awake: bool) -> None:
        """Begin a drain, go on with it, or end it; `awake`: somebody in the way is not asleep.

        A blocking call that sleeps is not waited for by making others wait.
        """
        now = time.monotonic()
        if self.running:
            if self._points and self._until - now < _POINT_S / 2 and not self._somebody_waits():
                self._until = now + self._length()
                self._write_deadlines()
            elif now >= self._until - _LAST_S:
                self.end()
            return
        self._is_due = (awake or bool(self._points)) and self._is_possible()
        if self._is_due and now >= self._rested:
            if self._failed_once:
                self._begin()
            self._failed_once = True  # the first try may just have been unlucky

    def _begin(self) -> None:
        self.tried += 1
        self._context.callback(raise_priority())
        self._context.enter_context(self._session.uncounted())
        self._since = time.monotonic()
        self._until = self._since + self._length()
        self._waited = self._hurry = False
        # What may be in vain, or needless, is done in every second drain.
        even = self.tried % 2 == 0
        self._passing = Passing(self._memory, even)
        self._wanted = self._all if even or not self._points else self._points
        self._shut = self._wanted
        for address, size in self._tables:
            self._memory.write(address, self._table(address, size))
        self._store(self._on | ledger.WAIT)

    def end(self) -> None:
        """Open the doors, and let callers pass without a look at them."""
        if self.running:
            self._store(self._on)
            self.release()
            self._context.close()

    def release(self) -> None:
        """Open the doors: the switch is stored by an update that has come to its commit.

        Threads that are stopped now go on at once when they run again, others at the deadline.
        """
        if not self.running:
            return
        for address, size in self._tables:
            self._memory.write(address, bytes(size))
        length = time.monotonic() - self._since
        if self._waited:
            self.longest_s = max(self.longest_s, min(length, self._length()))
            self._session.note_stop("drain", int(min(length, self._length()) * 1e6))
        rest = _REST if self.tried < len(_LENGTHS_S) else _LAST_REST
        self._rested = time.monotonic() + rest * (self._until - self._since)
        self._until = 0.0

    def excuses(self, thread: Thread) -> bool:
        """Say whether a stopped thread waits at an update point."""
        function = self._waiting_in(thread.registers.rip) if self._points else None
        return function is not None and function.point

    def look(
        self, threads: Mapping[int, Thread], blocked: Sequence[Blocked], ranges: Ranges
    ) -> None:
        """Take note of all threads, in a stop, and of those in the way; let pass who has to."""
        if not self.running:
            return
        waiting = {
            tid: function
            for tid, thread in threads.items()
            if (function := self._waiting_in(thread.registers.rip)) is not None
        }
        self._waited = self._waited or bool(waiting)
        passing = self._passing.look(waiting, threads, blocked, ranges)
        self._hurry = bool(passing)
        for tid in passing:
            if threads[tid].registers.syscall in FUTEX:
                threads[tid].go_on_at(waiting[tid].waiting[1])
        shut = self._wanted - self._passing.open_doors()
        for door in shut ^ self._shut:
            self._memory.write(door, struct.pack("<I", _SHUT if door in shut else _OPEN))
        self._shut = shut

    def _waiting_in(self, rip: int) -> ledger.Function | None:
        """Return the function in whose gate a thread waits that has this program counter."""
        at = bisect_right(self._starts, rip) - 1
        if at < 0 or rip > self._functions[at].waiting[1]:
            return None
        return self._functions[at]

    def _somebody_waits(self) -> bool:
        """Say whether a thread sleeps at one of the doors; found without stopping it."""
        pid = self._session.process.pid
        sleeps = (procfs.sleep(pid, tid) for tid in procfs.threads(pid))
        self._waited = any(s and s.arguments[0] in self._all for s in sleeps)
        return self._waited

    def _length(self) -> float:
        """Return for how long callers may be made to wait, in seconds."""
        length = _LENGTHS_S[min(max(self.tried, 1), len(_LENGTHS_S)) - 1]
        if self._points:
            length = max(length, _POINT_S)
        limit = self._session.max_pause_ns
        return length if limit is None else min(length, limit * _MARGIN / 1e9)

    def _is_possible(self) -> bool:
        if not self._functions or self._length() < _LEAST_S:
            return False
        if self._allowed is None:
            self._allowed = self._look_at_filters()
        return bool(self._allowed)

    def _look_at_filters(self) -> bool | None:
        """Say whether seccomp lets every thread wait; None where that is not known yet."""
        pid = self._session.process.pid
        with contextlib.suppress(Gone):
            if all(procfs.seccomp_mode(pid, tid) == "0" for tid in procfs.threads(pid)):
                return True
        door, ip = self._functions[0].door, self._functions[0].waiting[0]
        arguments = (door, _FUTEX_WAIT_BITSET_PRIVATE, _SHUT, door, 0, _ANY)
        try:
            with self._session.looks() as looks, self._session.hold("drain", looks) as hold:
                for thread in hold.threads.values():
                    seccomp.check(pid, thread, (seccomp.Call(syscalls.FUTEX, arguments),), ip)
        except Denied:
            return False
        except Unstoppable:
            return None
        return True

    def _table(self, address: int, size: int) -> bytes:
        """Return the deadline and the doors of a region."""
        table = bytearray(self._deadline().ljust(size, b"\0"))
        for door in self._shut:
            if address <= door < address + size:
                struct.pack_into("<I", table, door - address, _SHUT)
        return bytes(table)

    def _write_deadlines(self) -> None:
        for address, _ in self._tables:
            self._memory.write(address, self._deadline())

    def _deadline(self) -> bytes:
        """Return the end of the drain as the target's clock will say it (a struct timespec)."""
        offset = procfs.monotonic_offset_ns(self._session.process.pid)
        until = int(self._until * 1e9) + offset
        return struct.pack("<qq", *divmod(until, 1_000_000_000))

    def _store(self, switch: int) -> None:
        self._memory.write(self._switch, struct.pack("<I", switch))

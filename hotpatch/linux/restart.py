# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a stop invisible to system calls that would return EINTR.

Most calls are repeated by the kernel after a stop that brought no signal. The exceptions
(`arch.syscalls.INTERRUPTED_BY_STOP`) have returned -EINTR by the time we see the thread. Here their
result is turned into -ERESTARTNOHAND, the kernel's own word for "repeat, unless a handler runs":
so it is the kernel that decides, on the way out of the stop, and a signal that comes in that very
moment still gives EINTR. What is left to us is the time: these calls take a relative timeout and
would wait anew for the whole of it.

How long a thread has slept follows from the scheduler's record of when it went off its processor,
read before the stop. The clock of that record is the processor's own, so it is compared with
what the patcher's own record says right after it went off that processor itself. That the thread
still sleeps the same sleep when it is interrupted is seen right before that: how often it has been
on a processor is still the same (`Looks.watched`).
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hotpatch.arch import registers as arch
from hotpatch.arch import syscalls
from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import Batch

_NS = 1_000_000_000
_EINTR, _ERESTARTNOHAND = (arch.unsigned(-code) for code in (arch.EINTR, arch.ERESTARTNOHAND))
_MOST_OPEN = 500  # descriptors; more threads in such calls count as having begun to wait just now
_MARK = 0x746F6870 << 32  # what the kernel doesn't look at of a timeout in ms
_STACK_GAP = 8192  # more than a signal frame: see Restarter._write_timespec


class Look(NamedTuple):
    """A thread as it slept shortly before a stop.

    For calls with a timeout, `since_ns` is when it went to sleep, in time.perf_counter_ns, and
    `timeslices` how often it had been on a processor by then; both None where that isn't known.
    """

    sleep: procfs.Sleep
    since_ns: int | None = None
    timeslices: int | None = None


class Looks(dict[int, Look]):
    """What the sleeping ones of some threads sleep in, without stopping them; by thread id.

    `watched` are descriptors of the schedstat files of those in calls with a timeout
    (procfs.open_schedstat), which are to be read again as they are interrupted. A context, at
    whose end they are closed.
    """

    def __init__(self, pid: int, tids: Iterable[int], date_all: bool = False) -> None:
        """Look at threads of process `pid`.

        Since when they sleep is looked up for those in calls with a timeout, or for all.
        """
        super().__init__()
        self._pid = pid
        self._date_all = date_all
        self.watched: dict[int, int] = {}
        try:
            records = {tid: record for tid in tids if (record := self._look(tid)) is not None}
            self._date(records)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Looks:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close descriptors."""
        self.close()

    def close(self) -> None:
        """Close descriptors; what was seen stays."""
        while self.watched:
            os.close(self.watched.popitem()[1])

    def _look(self, tid: int) -> procfs.Scheduling | None:
        """Look at a thread; return the scheduler's record if it is to be dated."""
        sleep = procfs.sleep(self._pid, tid)
        if sleep is None:
            return None
        self[tid] = Look(sleep)
        timed = syscalls.INTERRUPTED_BY_STOP.get(sleep.number, syscalls.NO_TIMEOUT).unit
        if not timed:
            return procfs.sleep_record(self._pid, tid, sleep) if self._date_all else None
        if len(self.watched) >= _MOST_OPEN:
            return None
        schedstat = procfs.open_schedstat(self._pid, tid)
        if schedstat is None:
            return None
        self.watched[tid] = schedstat
        return procfs.scheduling(self._pid, tid, schedstat, sleep)

    def _date(self, records: dict[int, procfs.Scheduling]) -> None:
        """Note since when threads sleep.

        The clocks are compared after all records were read: a processor's clock can only have
        fallen behind meanwhile, which makes calls end late, not early.
        """
        processors = {record.processor for record in records.values()}
        clocks = {processor: _clock_offset(processor) for processor in processors}
        for tid, record in records.items():
            offset = clocks[record.processor]
            if offset is not None:
                since = record.exec_start + offset
                self[tid] = Look(self[tid].sleep, since, record.timeslices)


def _clock_offset(processor: int) -> int | None:
    """Return what to add to a processor's scheduler clock to have time.perf_counter_ns.

    Our own thread goes there for a moment; yielding brings its record up to date.
    """
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {processor})
    except OSError:  # not a processor that we may use
        return None
    try:
        os.sched_yield()
        own = procfs.sleep_record(os.getpid(), threading.get_native_id(), None)
        now = time.perf_counter_ns()  # not before: a clock that seems slow makes calls end late
    finally:
        os.sched_setaffinity(0, allowed)
    return None if own is None or own.processor != processor else now - own.exec_start


class _Repeated(NamedTuple):
    """A call that was repeated: its number, stack pointer, and the timeout that we gave it."""

    number: int
    rsp: int
    timeout: int
    until: int
    """When it is to end, in time.perf_counter_ns."""


class Restarter:
    """Repeats interrupted calls, over all the stops of one update and of its probation.

    It remembers until when a thread meant to wait, so that a call which is interrupted again and
    again ends when it was to end. That it is the same call is seen in the timeout, which no
    program passes: one in ms has a mark in the upper half of the register, of which the kernel
    takes the lower, and a timespec lies where a program has none.
    """

    def __init__(self, memory: Memory) -> None:
        """Work on the process that `memory` belongs to."""
        self._memory = memory
        self._repeated: dict[int, _Repeated] = {}

    def conceal(self, batch: Batch, looks: Mapping[int, Look]) -> None:
        """Change the registers of those stopped threads whose call would return EINTR."""
        for index, rax in enumerate(batch.column("rax")):
            if rax != _EINTR:
                continue
            thread = batch.threads[index]
            look = looks.get(thread.tid)
            if look is not None and look.timeslices != thread.timeslices():
                look = None  # it has been awake since
            if self._repeat(thread.tid, thread.registers, look):
                batch.write(index)

    def conceal_one(self, tid: int, registers: arch.Registers, look: Look | None) -> bool:
        """Change what is to be the registers of a stopped thread; return whether that was needed.

        `look` is how it slept when it was interrupted, None where that isn't known.
        """
        return registers.rax == _EINTR and self._repeat(tid, registers, look)

    def _repeat(self, tid: int, state: arch.Registers, look: Look | None) -> bool:
        """Have a call repeated for the rest of its time; return whether it is one of those."""
        timeout = syscalls.INTERRUPTED_BY_STOP.get(state.orig_rax)
        if timeout is None:
            return False
        state.rax = _ERESTARTNOHAND
        asked = self._asked_ns(state, timeout) if timeout.unit else None
        if asked is None:
            return True
        now = time.perf_counter_ns()
        register = timeout.register
        call = state.orig_rax, state.rsp, state[register]
        before = self._repeated.get(tid)
        if before and before[:3] == call:
            until = before.until
        else:
            until = asked + _began_ns(state, look, now)
        left = max(0, until - now)
        if timeout.unit == "ms":
            state[register] = _MARK | -(-left // 1_000_000)
        elif not self._write_timespec(state, register, left):
            return True
        self._repeated[tid] = _Repeated(*call[:2], state[register], until)
        return True

    def _asked_ns(self, state: arch.Registers, timeout: syscalls.Timeout) -> int | None:
        """Return the timeout of the call, None for one that waits for ever or not at all."""
        value = state[timeout.register]
        if timeout.unit == "ms":
            value &= 0xFFFFFFFF
            return value * 1_000_000 if 0 < value < 1 << 31 else None
        if not value:
            return None
        seconds, nanoseconds = struct.unpack("<qq", self._memory.read(value, 16))
        return int(seconds * _NS + nanoseconds)

    def _write_timespec(self, state: arch.Registers, register: str, left_ns: int) -> bool:
        """Give the call a corrected timespec, on the thread's own stack; tell whether that went.

        The program's may be read-only, or looked at later. The kernel reads it as the call
        begins anew, before anything can use the stack below the red zone; the gap is for a
        signal that comes in the one instruction between.
        """
        for gap in (_STACK_GAP, 16):
            address = (state.rsp - RED_ZONE - gap - 16) & -16
            try:
                self._memory.write(address, struct.pack("<qq", *divmod(left_ns, _NS)))
            except OSError:
                continue
            state[register] = address
            return True
        return False


def _began_ns(state: arch.Registers, look: Look | None, now: int) -> int:
    """Return when a call began to wait, which is now where that can't be told.

    Late is right, early would be wrong.
    """
    if look is None or look.since_ns is None:
        return now
    if (look.sleep.number, look.sleep.rsp) != (state.orig_rax, state.rsp):
        return now
    return min(look.since_ns, now)

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
_ROUNDED_NS = 1_500_000  # a millisecond, and a little for going back to sleep
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


class _State:
    """The registers of one thread of a batch, by name, as they are in its buffer."""

    __slots__ = ("_first", "_words", "thread")

    def __init__(self, batch: Batch, index: int) -> None:
        self.thread = batch.threads[index]
        self._words = batch.states.words
        self._first = (batch.first + index) * arch.COUNT

    def __getitem__(self, register: str) -> int:
        return self._words[self._first + arch.NUMBER[register]]

    def __setitem__(self, register: str, value: int) -> None:
        self._words[self._first + arch.NUMBER[register]] = value


class _Repeated(NamedTuple):
    """What a call was repeated with: its timeout in ms, and when it is to end, in ns."""

    ms: int
    until: int


class Restarter:
    """Repeats interrupted calls, over all the stops of one update.

    It remembers until when a thread meant to wait, so that rounding doesn't add up.
    """

    def __init__(self, memory: Memory) -> None:
        """Work on the process that `memory` belongs to."""
        self._memory = memory
        self._repeated: dict[int, _Repeated] = {}

    def conceal(self, batch: Batch, looks: Mapping[int, Look]) -> None:
        """Change the registers of those stopped threads whose call would return EINTR."""
        for index, rax in enumerate(batch.column("rax")):
            if rax == _EINTR and self._repeat(_State(batch, index), looks):
                batch.write(index)

    def _repeat(self, state: _State, looks: Mapping[int, Look]) -> bool:
        """Have a call repeated for the rest of its time; return whether it is one of those."""
        timeout = syscalls.INTERRUPTED_BY_STOP.get(state["orig_rax"])
        if timeout is None:
            return False
        state["rax"] = _ERESTARTNOHAND
        asked = self._asked_ns(state, timeout) if timeout.unit else None
        if asked is not None:
            now = time.perf_counter_ns()
            until = self._began_ns(state, looks.get(state.thread.tid), now) + asked
            if timeout.unit == "ms":
                self._write_ms(state, timeout.register, until, now)
            else:
                self._write_timespec(state, timeout.register, max(0, until - now))
        return True

    def _write_ms(self, state: _State, register: str, until: int, now: int) -> None:
        """Have a call wait for the rest of its time, rounded up.

        One that we have repeated before was rounded up already: it ends when it was to end then.
        """
        before = self._repeated.get(state.thread.tid)
        if before and before.ms == state[register] and 0 <= until - before.until < _ROUNDED_NS:
            until = before.until
        state[register] = -(-max(0, until - now) // 1_000_000)
        self._repeated[state.thread.tid] = _Repeated(state[register], until)

    def _asked_ns(self, state: _State, timeout: syscalls.Timeout) -> int | None:
        """Return the timeout of the call, None for one that waits for ever or not at all."""
        value = state[timeout.register]
        if timeout.unit == "ms":
            value &= 0xFFFFFFFF
            return value * 1_000_000 if 0 < value < 1 << 31 else None
        if not value:
            return None
        seconds, nanoseconds = struct.unpack("<qq", self._memory.read(value, 16))
        return int(seconds * _NS + nanoseconds)

    @staticmethod
    def _began_ns(state: _State, look: Look | None, now: int) -> int:
        """Return when the thread's call began to wait.

        Where that can't be told (no record, or the thread moved between look and stop) it counts
        from now: late is right, early would be wrong.
        """
        if look is None or look.since_ns is None or look.timeslices is None:
            return now
        if look.timeslices != state.thread.timeslices():
            return now  # it has been awake since
        if (look.sleep.number, look.sleep.rsp) != (state["orig_rax"], state["rsp"]):
            return now
        return min(look.since_ns, now)

    def _write_timespec(self, state: _State, register: str, left_ns: int) -> None:
        """Give the call a corrected timespec, on the thread's own stack.

        The program's may be read-only, or looked at later. The kernel reads it as the call
        begins anew, before anything can use the stack below the red zone; the gap is for a
        signal that comes in the one instruction between.
        """
        for gap in (_STACK_GAP, 16):
            address = (state["rsp"] - RED_ZONE - gap - 16) & -16
            try:
                self._memory.write(address, struct.pack("<qq", *divmod(left_ns, _NS)))
            except OSError:
                continue
            state[register] = address
            return

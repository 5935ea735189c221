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
what the patcher's own record says right after it went off that processor itself.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from hotpatch.arch import registers as arch
from hotpatch.arch import syscalls
from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import Thread

_NS = 1_000_000_000
_STACK_GAP = 8192  # more than a signal frame: see Restarter._write_timespec


class Look(NamedTuple):
    """A thread as it slept shortly before a stop.

    For calls with a timeout, `since_ns` is when it went to sleep, in time.perf_counter_ns, and
    `timeslices` how often it had been on a processor by then; both None where that isn't known.
    """

    sleep: procfs.Sleep
    since_ns: int | None
    timeslices: int | None


def look(pid: int, tids: list[int]) -> dict[int, Look]:
    """Return what the sleeping ones of some threads sleep in, without stopping them."""
    found = {}
    clocks: dict[int, int | None] = {}
    for tid in tids:
        sleep = procfs.sleep(pid, tid)
        if sleep is not None:
            timed = syscalls.INTERRUPTED_BY_STOP.get(sleep.number, syscalls.NO_TIMEOUT).unit
            found[tid] = _timed(pid, tid, sleep, clocks) if timed else Look(sleep, None, None)
    return found


def _timed(pid: int, tid: int, sleep: procfs.Sleep, clocks: dict[int, int | None]) -> Look:
    record = procfs.scheduling(pid, tid)
    if record is None:
        return Look(sleep, None, None)
    processor = record.processor
    if processor not in clocks:
        clocks[processor] = _clock_offset(processor)
    offset = clocks[processor]
    since = None if offset is None else record.exec_start + offset
    return Look(sleep, since, record.timeslices)


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
        own = procfs.scheduling(os.getpid(), threading.get_native_id())
        now = time.perf_counter_ns()  # not before: a clock that seems slow makes calls end late
    finally:
        os.sched_setaffinity(0, allowed)
    return None if own is None or own.processor != processor else now - own.exec_start


class Restarter:
    """Repeats interrupted calls, over all the stops of one update.

    It remembers until when a thread meant to wait, so that rounding doesn't add up.
    """

    def __init__(self, memory: Memory) -> None:
        """Work on the process that `memory` belongs to."""
        self._memory = memory
        self._until: dict[int, tuple[int, int]] = {}  # tid: (rsp, perf_counter_ns)

    def conceal(self, threads: Iterable[Thread], looks: dict[int, Look]) -> None:
        """Change the registers of those stopped threads whose call would return EINTR."""
        eintr = arch.unsigned(-arch.EINTR)
        for thread in threads:
            registers = thread.registers
            if registers.rax != eintr or registers.orig_rax not in syscalls.INTERRUPTED_BY_STOP:
                continue
            self._correct_timeout(thread, looks.get(thread.tid))
            registers.rax = arch.unsigned(-arch.ERESTARTNOHAND)
            ptrace.set_registers(thread.tid, registers)

    def _correct_timeout(self, thread: Thread, look: Look | None) -> None:
        timeout = syscalls.INTERRUPTED_BY_STOP[thread.registers.orig_rax]
        if not timeout.unit:
            return
        asked = self._asked_ns(thread, timeout)
        if asked is None:
            return
        until = self._until.get(thread.tid)
        if until is None or until[0] != thread.registers.rsp or until[1] < time.perf_counter_ns():
            until = (thread.registers.rsp, self._began_ns(thread, look) + asked)
            self._until[thread.tid] = until
        left = max(0, until[1] - time.perf_counter_ns())
        if timeout.unit == "ms":
            setattr(thread.registers, timeout.register, -(-left // 1_000_000))
        else:
            self._write_timespec(thread, timeout.register, left)

    def _asked_ns(self, thread: Thread, timeout: syscalls.Timeout) -> int | None:
        """Return the timeout of the call, None for one that waits for ever or not at all."""
        value: int = getattr(thread.registers, timeout.register)
        if timeout.unit == "ms":
            value &= 0xFFFFFFFF
            return value * 1_000_000 if 0 < value < 1 << 31 else None
        if not value:
            return None
        seconds, nanoseconds = struct.unpack("<qq", self._memory.read(value, 16))
        return int(seconds * _NS + nanoseconds)

    def _began_ns(self, thread: Thread, look: Look | None) -> int:
        """Return when the thread's call began to wait.

        Where that can't be told (no record, or the thread moved between look and stop) it counts
        from now: late is right, early would be wrong.
        """
        now = time.perf_counter_ns()
        registers = thread.registers
        if look is None or look.since_ns is None or look.timeslices is None:
            return now
        if (look.sleep.number, look.sleep.rsp) != (registers.orig_rax, registers.rsp):
            return now
        if procfs.timeslices(self._memory.pid, thread.tid) != look.timeslices + 1:
            return now  # it has been awake since
        return min(look.since_ns, now)

    def _write_timespec(self, thread: Thread, register: str, left_ns: int) -> None:
        """Give the call a corrected timespec, on the thread's own stack.

        The program's may be read-only, or looked at later. The kernel reads it as the call
        begins anew, before anything can use the stack below the red zone; the gap is for a
        signal that comes in the one instruction between.
        """
        for gap in (_STACK_GAP, 16):
            address = (thread.registers.rsp - RED_ZONE - gap - 16) & -16
            try:
                self._memory.write(address, struct.pack("<qq", *divmod(left_ns, _NS)))
            except OSError:
                continue
            setattr(thread.registers, register, address)
            return

# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a stop invisible to system calls that would return EINTR.

Most calls are repeated by the kernel after a stop that brought no signal. The exceptions
(`arch.syscalls.INTERRUPTED_BY_STOP`) have returned -EINTR by the time we see the thread. Here their
result is turned into -ERESTARTNOHAND, the kernel's own word for "repeat, unless a handler runs":
so it is the kernel that decides, on the way out of the stop, and a signal that comes in that very
moment still gives EINTR. What is left to us is the time: these calls take a relative timeout and
would wait anew for the whole of it.

How long a thread has slept is the difference between two records of the scheduler: when it went off
the processor before the stop, and when it did so in the stop.
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

from hotpatch.arch import registers as arch
from hotpatch.arch import syscalls
from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import Hold, Thread

_NS = 1_000_000_000
_STACK_GAP = 8192  # more than a signal frame: see Restarter._write_timespec


class Look(NamedTuple):
    """A thread as it slept shortly before a stop; `scheduling` only for calls with a timeout."""

    sleep: procfs.Sleep
    scheduling: procfs.Scheduling | None


def look(pid: int, tids: list[int]) -> dict[int, Look]:
    """Return what the sleeping ones of some threads sleep in, without stopping them."""
    found = {}
    for tid in tids:
        sleep = procfs.sleep(pid, tid)
        if sleep is not None:
            timed = syscalls.INTERRUPTED_BY_STOP.get(sleep.number, syscalls.NO_TIMEOUT).unit
            found[tid] = Look(sleep, procfs.scheduling(pid, tid) if timed else None)
    return found


class Restarter:
    """Repeats interrupted calls, over all the stops of one update.

    It remembers until when a thread meant to wait, so that rounding doesn't add up.
    """

    def __init__(self, memory: Memory) -> None:
        """Work on the process that `memory` belongs to."""
        self._memory = memory
        self._until: dict[int, tuple[int, int]] = {}  # tid: (rsp, perf_counter_ns)

    def conceal(self, hold: Hold, looks: dict[int, Look]) -> None:
        """Change the registers of the held threads whose call would return EINTR."""
        eintr = arch.unsigned(-arch.EINTR)
        for thread in hold.threads.values():
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
            end = time.perf_counter_ns() + asked - self._slept_ns(thread, look)
            until = self._until[thread.tid] = (thread.registers.rsp, end)
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

    def _slept_ns(self, thread: Thread, look: Look | None) -> int:
        """Return how long the thread has been in its call.

        Where it can't be told (no record, or the thread moved between look and stop), nothing
        is taken off: late is right, early would be wrong.
        """
        registers = thread.registers
        if look is None or look.scheduling is None:
            return 0
        if (look.sleep.number, look.sleep.rsp) != (registers.orig_rax, registers.rsp):
            return 0
        now = procfs.scheduling(self._memory.pid, thread.tid)
        if now is None or now.voluntary_switches - look.scheduling.voluntary_switches != 1:
            return 0
        in_stop = time.perf_counter_ns() - thread.stopped_ns
        return int((now.exec_start - look.scheduling.exec_start) * 1e6) + in_stop

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

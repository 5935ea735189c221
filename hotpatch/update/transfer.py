# SPDX-License-Identifier: GPL-2.0-or-later
"""Carrying the state over: the commit of a patch that has checks, transfers or reverses.

The target does it itself (trampolines/x86_64/transfer.S): a borrowed thread runs the functions of
the patch, sets the switch, and lets the others go; or puts back what they have changed. First every
other thread is sent to the parking code, then one store says that it begins. If we die before
that store, all go home at once, and nothing has happened; if we die after it, the program goes on
to its end, and the others wait for that. While we live we only watch: we hold the threads, note
where a function crashed, keep it from ending the program, and see when it waits for a lock that a
held thread has. It is put back then, and tried at another moment.
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.arch import registers as arch
from hotpatch.arch import syscalls
from hotpatch.arch.registers import Registers
from hotpatch.errors import Busy, HotpatchError
from hotpatch.linux import procfs, ptrace, seccomp
from hotpatch.linux.memory import Memory
from hotpatch.linux.parking import Parking, Unparkable
from hotpatch.linux.remote import Borrowed, Overdue, Program
from hotpatch.linux.threads import Hold
from hotpatch.process import ledger
from hotpatch.update import job
from hotpatch.update.borrow import suitable
from hotpatch.update.calls import waits
from hotpatch.update.moment import NotNow
from hotpatch.update.result import Progress, Step
from hotpatch.update.session import Session

_LOCKED_NS = 20_000_000  # how long a function may sleep on a futex
GRACE_NS = 3 * job.SETTLING_NS  # for what the program does by itself when its time is over
_REPORT_NS = 100_000_000
_STACK_COPY = 64 << 10
_MASK_CALL = (2, 4096, 0, 8)
_CALLS = (
    seccomp.Call(syscalls.MPROTECT, (4096, 4096, 3)),
    seccomp.Call(syscalls.MPROTECT, (4096, 4096, 1)),
    seccomp.Call(syscalls.SIGALTSTACK, (4096, 4096)),
    seccomp.Call(syscalls.RT_SIGACTION, (11, 4096, 4096, 8)),
    seccomp.Call(syscalls.RT_SIGPROCMASK, _MASK_CALL),
    seccomp.Call(syscalls.GETTID, ()),
    seccomp.Call(syscalls.GETPID, ()),
    seccomp.Call(syscalls.TIMER_CREATE, (1, 4096, 4096)),
    seccomp.Call(syscalls.TIMER_SETTIME, (0, 0, 4096, 0)),
    seccomp.Call(syscalls.TIMER_DELETE, (0,)),
    seccomp.Call(syscalls.FUTEX, (4096, 129, 1)),
    seccomp.Call(syscalls.FUTEX, (4096, 128, 1, 0)),
    seccomp.Call(syscalls.MMAP, (0, 4096, 3, 0x22, arch.NO_SYSCALL, 0)),
)
# What ends the process, and what makes another of it.
_ENDING = frozenset({syscalls.EXIT, syscalls.EXIT_GROUP})
_FORKING = frozenset(
    {
        *(syscalls.CLONE, syscalls.CLONE3, syscalls.FORK, syscalls.VFORK),
        *(syscalls.EXECVE, syscalls.EXECVEAT),
    }
)


class Fault(NamedTuple):
    """Where a function got a signal: its registers then, and its stack from `rsp` on."""

    info: ptrace.SignalInfo
    registers: Registers
    stack: bytes


class Failed(Exception):
    """A step failed, and all that it had changed was put back; raised within the stop."""

    def __init__(
        self,
        step: Step,
        outcome: job.Outcome,
        limit_ns: int,
        messages: tuple[str, ...],
        fault: Fault | None,
    ) -> None:
        """Keep what is known of it."""
        super().__init__(f"{step} failed: {outcome}")
        self.step = step
        self.outcome = outcome
        self.limit_ns = limit_ns
        self.messages = messages
        self.fault = fault


def carry_over(
    session: Session, hold: Hold, record: ledger.Record, steps: Sequence[Step], switch: job.Switch
) -> None:
    """Run the steps in the target; the switch is set with the last one.

    Raises NotNow; Busy where that takes longer than --max-pause; Failed; Gone.
    """
    process = session.process
    code = record.transfer
    assert code is not None
    thread = suitable(session, hold, session.stacks, waits, _CALLS)
    if thread is None:
        raise NotNow("no thread waits in a system call from which state could be carried over")
    limit_ns, pressed = _limit(session, hold)
    functions = [step.address for step in steps]
    job.set_up(process.memory, record, functions, switch, limit_ns, code.calls_out)
    others = [other for other in hold.threads.values() if other is not thread]
    parking = Parking(others, process.memory, code.parking)
    watcher = Attendant(session, record, process.memory)
    with Borrowed(thread, process.memory, process.gadgets) as borrowed:
        try:
            parking.enter()
        except Unparkable as error:
            raise NotNow(str(error)) from None
        try:
            borrowed.run_watched(
                Program(code.start, code.asleep, uses_fpu=True),
                record.stack + ledger.STACK_SIZE,
                limit_ns + GRACE_NS,
                watcher,
                lambda: job.begin(process.memory, record.stack),
                rbx=record.stack,
            )
        except Overdue as overdue:
            if job.outcome(process.memory, record.stack).park != job.OVER:
                raise _stuck(overdue) from None
        finally:
            parking.leave()
    _judge(session, record, steps, watcher, limit_ns, pressed)


def _limit(session: Session, hold: Hold) -> tuple[int, bool]:
    """Return how long the functions may take, and whether that is what --max-pause leaves."""
    limit_ns = int(session.options.transfer_timeout * 1e9)
    if session.max_pause_ns is None:
        return limit_ns, False
    first = min(thread.interrupted_ns for thread in hold.threads.values())
    left = session.max_pause_ns - (time.perf_counter_ns() - first)
    return (max(1, left), True) if left < limit_ns else (limit_ns, False)


def _judge(
    session: Session,
    record: ledger.Record,
    steps: Sequence[Step],
    watcher: Attendant,
    limit_ns: int,
    pressed: bool,
) -> None:
    """Read what it has come to; raise what `carry_over` says unless it was done."""
    memory = session.process.memory
    outcome = job.outcome(memory, record.stack)
    messages = job.messages(memory, record)
    if outcome.status == job.DONE:
        session.messages += messages
        if outcome.leaked:
            session.warnings.append(
                "memory that the transfer had replaced could not be freed: a lock was taken"
            )
        return
    if outcome.status == job.LOCKED:
        raise NotNow("a transfer waits for a lock that a held thread has")
    if outcome.status == job.INTERRUPTED and watcher.interruption is not None:
        raise watcher.interruption
    step = steps[min(outcome.function, len(steps) - 1)]
    if outcome.status == job.TIMED_OUT and pressed:
        raise Busy(
            f"{step} did not end within --max-pause",
            "nothing was changed; see with --rehearse how long it takes, and allow as much",
        )
    raise Failed(step, outcome, limit_ns, messages, watcher.fault_seen)


def _stuck(overdue: Overdue) -> HotpatchError:
    return HotpatchError(
        f"the transfer does not end, nor could it be rolled back: {overdue}",
        "the state of the target is unknown; restart it",
    )


class Attendant:
    """Watches the program at work; see `linux.remote.Watcher`."""

    def __init__(
        self, session: Session, record: ledger.Record, memory: Memory, phase: str = "transfer"
    ) -> None:
        """Prepare to watch a patch's functions in a process with this memory."""
        assert record.transfer is not None
        self.every_call = False
        self._phase = phase
        self.fault_seen: Fault | None = None
        """The first fault of a function."""
        self.interruption: BaseException | None = None
        """What was raised by who is told of progress."""
        self._diverted = False
        self._session = session
        self._memory = memory
        self._record = record
        self._code = record.transfer
        self._asleep: tuple[procfs.Sleep, int] | None = None
        self._began = time.monotonic()
        self._report_ns = time.perf_counter_ns() + _REPORT_NS

    def fault(self, info: ptrace.SignalInfo, registers: Registers) -> None:
        """Keep where it was; the handler in the target does the rest."""
        aborts = info.code == _SI_TKILL and info.signal == signal.SIGABRT
        if self.fault_seen is not None or (info.code <= 0 and not aborts):
            return  # it is in time, or somebody else's
        end = self._record.stack + ledger.STACK_SIZE
        size = end - registers.rsp if self._record.stack <= registers.rsp < end else 0
        stack = self._memory.read(registers.rsp, min(size, _STACK_COPY))
        self.fault_seen = Fault(info, registers, stack)

    def call(self, registers: Registers) -> bool:
        """Keep it from ending the program, or making another of it."""
        if self._code.start <= registers.rip <= self._code.asleep:
            self.every_call = False  # the functions are done: these calls are the program's own
            return False
        number = registers.syscall
        if number not in _ENDING | _FORKING or not registers.enters_call:
            return False  # harmless, or at its end
        if number in _ENDING:
            self._send(registers, self._code.roll_back, job.REFUSED_CALL, number)
        else:  # who called it may have locks, and lets go of them when it fails
            job.refuse(self._memory, self._record.stack, number)
            registers.refuse_call(errno.EPERM)
        return True

    def look(self, sleep: procfs.Sleep | None) -> bool:
        """Report progress; see whether it waits for a lock."""
        now = time.perf_counter_ns()
        if now >= self._report_ns:
            self._report_ns = now + _REPORT_NS
            self._report()
        if self.interruption is not None and not self._diverted:
            return True
        if sleep is not None and sleep.rip == self._code.attended:
            self.every_call = True
            return True
        if sleep is None or sleep.number != syscalls.FUTEX:
            self._asleep = None
            return False
        if self._asleep is None or self._asleep[0] != sleep:
            self._asleep = (sleep, now)
        return now - self._asleep[1] >= _LOCKED_NS

    def divert(self, registers: Registers) -> bool:
        """Roll back; or leave it at that, if only memory was to be freed."""
        if registers.rip == self._code.attended:
            return False  # from now on it stops at every call
        phase = job.outcome(self._memory, self._record.stack).phase
        if self.interruption is not None and not self._diverted:
            self._diverted = True
            if phase == 0:
                self._send(registers, self._code.roll_back, job.INTERRUPTED, 0)
            return phase == 0
        if registers.syscall != syscalls.FUTEX:
            return False  # it has got its lock
        place = self._code.leave if phase == 2 else self._code.roll_back
        self._send(registers, place, job.LOCKED, 0)
        return True

    def _send(self, registers: Registers, place: int, status: int, code: int) -> None:
        registers.go_to(place)
        registers.rbp, registers.rax = status, code  # as transfer.S has it

    def _report(self) -> None:
        report = self._session.options.on_progress
        if report is None or self.interruption is not None:
            return
        done, total, _ = job.progress(self._memory, self._record)
        elapsed = time.monotonic() - self._began
        timeout = self._session.options.transfer_timeout
        try:
            report(Progress(self._phase, self._session.attempts, elapsed, timeout, (), done, total))
        except BaseException as error:  # whatever: the state has to be put back before it goes on
            self.interruption = error


_SI_TKILL = -6

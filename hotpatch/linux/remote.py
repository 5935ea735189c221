# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls made in the target by one of its own threads.

A borrowed thread has its way home on its own stack before it is sent anywhere: a signal
frame below the red zone, whose return address leads to rt_sigreturn. From the one PTRACE_SETREGS
that sends it off, whatever it runs ends in the frame, with or without us. While we live we
bring it home ourselves at a system call stop, so that the kernel restarts an interrupted call with
what is left of its time. (DESIGN.md, section 6.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hotpatch.arch import registers as arch
from hotpatch.arch import sigframe
from hotpatch.arch.registers import Registers
from hotpatch.errors import Gone, HotpatchError
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import Thread, interrupt_again, wait

_BLOCK_ALL = (1 << 64) - 1
_BLOCKABLE = _BLOCK_ALL & ~(1 << 8 | 1 << 18)  # all but SIGKILL and SIGSTOP
_DIRECTION_FLAG = 1 << 10
_LIMIT_NS = 2_000_000_000
_FIRST_NAP_NS = 30_000  # about what mapping a region takes
_LONGEST_NAP_NS = 1_000_000
_FAULTS = {4, 5, 6, 7, 8, 11, 31}  # SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSYS


class Gadgets(NamedTuple):
    """Code of the target that remote calls lean on.

    `syscall_return` is the address of `syscall; ret`; `way_home` are the words on the stack that
    lead a `ret` to rt_sigreturn.
    """

    syscall_return: int
    way_home: tuple[int, ...]


class Program(NamedTuple):
    """Code in the target for a borrowed thread: where it starts, and where home.S sleeps."""

    start: int
    asleep: int
    uses_fpu: bool


class Watcher(Protocol):
    """Somebody who looks at a program while it runs, and may send it elsewhere."""

    every_call: bool
    """Whether it wants to see the next system calls: each then costs two stops."""

    def fault(self, info: ptrace.SignalInfo, registers: Registers) -> None:
        """Take note of a fault, or an abort, before its handler runs."""

    def call(self, registers: Registers) -> bool:
        """Look at a system call that is about to be made; return whether registers were changed.

        To keep it from being made, `orig_rax` has to be changed.
        """

    def look(self, sleep: procfs.Sleep | None) -> bool:
        """Look at what the thread sleeps in, from time to time; return whether to divert it."""

    def divert(self, registers: Registers) -> bool:
        """Change the registers of the stopped thread; return whether that was done."""


class Crashed(Exception):
    """Code run in the target got a fault; the thread is stopped in it."""

    def __init__(self, info: ptrace.SignalInfo, registers: Registers) -> None:
        """Keep the signal and where it happened."""
        super().__init__(f"signal {info.signal} at {registers.rip:#x}")
        self.info = info
        self.registers = registers


class Overdue(Exception):
    """Code run in the target did not end in its time; the thread is stopped in it."""

    def __init__(self, registers: Registers) -> None:
        """Keep where it was."""
        super().__init__(f"still running at {registers.rip:#x}")
        self.registers = registers


class Borrowed:
    """A stopped thread that works for us; a context that gives it back."""

    def __init__(self, thread: Thread, memory: Memory, gadgets: Gadgets) -> None:
        """Take the thread's state and lay its way home on its stack."""
        self._thread = thread
        self._memory = memory
        self._gadgets = gadgets
        self._xstate = ptrace.get_xstate(thread.tid)
        self._sigmask = ptrace.get_sigmask(thread.tid)
        self._used_fpu = False
        self._sent = False
        frame = sigframe.build(
            arch.resumed_by_hand(thread.registers),
            self._xstate,
            self._sigmask,
            gadgets.way_home,
            thread.registers.rsp - sigframe.RED_ZONE,
        )
        memory.write(frame.address, frame.content)
        self._frame, self._way_home = frame.address, frame.sigreturn_rsp

    def __enter__(self) -> Borrowed:
        """Return the thread, ready to be sent."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.give_back()

    @property
    def way_home(self) -> int:
        """Return what rsp has to be at rt_sigreturn: the address behind the return address."""
        return self._way_home

    def syscall(self, number: int, *arguments: int) -> int:
        """Make a system call in the target; return its result, negative for an error."""
        registers = self._away(self._gadgets.syscall_return, self._frame)
        registers.rax = number
        for name, value in zip(arch.ARGUMENTS, arguments, strict=False):
            setattr(registers, name, arch.unsigned(value))
        self._send(registers)
        self._next_syscall_stop(_LIMIT_NS)
        self._next_syscall_stop(_LIMIT_NS)
        return self._current().result

    def run(
        self,
        program: Program,
        stack: int | None = None,
        limit_ns: int = _LIMIT_NS,
        **arguments: int,
    ) -> Registers:
        """Run a program that ends in trampolines/x86_64/home.S; return its registers at the end.

        `stack` is its stack pointer, the way home if none is given; `arguments` are values for
        registers. Raises Crashed and Overdue; the thread is then still to be given back, which
        takes it out of the code.
        """
        self._set_out(program, stack, arguments)
        self._await_cue(program, time.perf_counter_ns() + limit_ns, _Nobody())
        return self._at_cue(program)

    def run_watched(
        self,
        program: Program,
        stack: int,
        limit_ns: int,
        watcher: Watcher,
        begin: Callable[[], object],
        **arguments: int,
    ) -> None:
        """Run a program that deals with its own faults; `begin` is called right before.

        Everything is in place then. Raises Overdue.
        """
        self._set_out(program, stack, arguments)
        begin()
        self._await_cue(program, time.perf_counter_ns() + limit_ns, watcher)
        self._at_cue(program)

    def _set_out(self, program: Program, stack: int | None, arguments: dict[str, int]) -> None:
        registers = self._away(program.start, self.way_home if stack is None else stack)
        registers.r13 = self.way_home
        for name, value in arguments.items():
            setattr(registers, name, value)
        self._used_fpu = program.uses_fpu
        self._send(registers)

    def _at_cue(self, program: Program) -> Registers:
        registers = self._current()
        if registers.rip != program.asleep:  # it got tired of waiting for us, and is home
            self._sent = False
            raise Overdue(registers)
        return registers

    def _await_cue(self, program: Program, deadline: int, watcher: Watcher) -> None:
        """Let the thread run until it sleeps at its cue, then stop it there."""
        tid, signal, nap = self._thread.tid, 0, _FIRST_NAP_NS
        ptrace.request(_resume(watcher), tid)
        while True:
            now = time.perf_counter_ns()
            if now > deadline:
                self._interrupt(watcher)
                self._sent = not self._is_home()
                raise Overdue(self._current())
            stop = wait(tid, now + nap)
            if stop is None:
                asleep = procfs.sleep(self._memory.pid, tid)
                if asleep is not None and asleep.rip == program.asleep:
                    self._interrupt(watcher)
                    return
                if watcher.look(asleep):
                    self._interrupt(watcher)
                    self._change(watcher.divert)
                    ptrace.request(_resume(watcher), tid)
                nap = min(2 * nap, _LONGEST_NAP_NS)
                continue
            signal = self._seen(stop, watcher)
            ptrace.request(_resume(watcher), tid, None, signal)

    def _seen(self, stop: ptrace.Stop, watcher: Watcher) -> int:
        """Let the watcher see a stop; return the signal to go on with."""
        if stop.kind == "syscall":
            self._change(watcher.call)
            return 0
        if stop.kind == "signal" and stop.signal in _FAULTS:
            watcher.fault(ptrace.get_siginfo(self._thread.tid), self._current())
            return stop.signal
        return self._passed_on(stop)

    def _change(self, change: Callable[[Registers], bool]) -> None:
        registers = self._current()
        if change(registers):
            ptrace.set_registers(self._thread.tid, registers)

    def _is_home(self) -> bool:
        """Say whether the thread has brought itself home, as we came too late to its cue.

        Its signals are then its own again, and its registers must be left alone. (Of a thread that
        blocks all signals anyway this can't be told; code of a patch that changes its signal mask
        is left to come to its end by itself.)
        """
        return ptrace.get_sigmask(self._thread.tid) & _BLOCKABLE != _BLOCKABLE

    def _current(self) -> Registers:
        registers = Registers()
        ptrace.get_registers(self._thread.tid, registers)
        return registers

    def _passed_on(self, stop: ptrace.Stop) -> int:
        """Return the signal to go on with after a stop that isn't ours; raises Crashed, Gone."""
        if stop.kind == "ended":
            raise Gone("the process ended while a thread of it was borrowed")
        if stop.kind != "signal":
            return 0
        return stop.signal

    def _away(self, rip: int, rsp: int) -> Registers:
        registers = self._thread.registers.copy()
        registers.rip, registers.rsp = rip, rsp
        registers.orig_rax = arch.NO_SYSCALL
        registers.eflags &= ~_DIRECTION_FLAG
        return registers

    def _send(self, registers: Registers) -> None:
        # Registers first, mask second: with the mask alone changed, death here would leave it so.
        self._sent = True
        ptrace.set_registers(self._thread.tid, registers)
        ptrace.set_sigmask(self._thread.tid, _BLOCK_ALL)

    def _next_syscall_stop(self, limit_ns: int) -> None:
        """Let the thread go on to its next system call stop, job control and signals aside."""
        deadline = time.perf_counter_ns() + limit_ns
        signal = 0
        while True:
            try:
                ptrace.request(ptrace.SYSCALL, self._thread.tid, None, signal)
                stop = wait(self._thread.tid, deadline)
            except ProcessLookupError:
                stop = ptrace.ENDED
            if stop is None:
                raise HotpatchError(
                    f"a system call in the target did not end in {limit_ns // 10**9} s",
                    "the target is unchanged; look at what keeps it (memory cgroup, swapping)",
                )
            if stop.kind == "syscall":
                return
            signal = self._seen(stop, _Nobody())

    def _interrupt(self, watcher: Watcher) -> None:
        """Stop code that has run too long, wherever it is."""
        ptrace.request(ptrace.INTERRUPT, self._thread.tid)
        while True:
            stop = wait(self._thread.tid, time.perf_counter_ns() + _LIMIT_NS)
            if stop is not None and stop.kind in ("event", "ended"):
                return
            if stop is not None:
                interrupt_again(self._thread.tid, self._seen(stop, watcher))

    def give_back(self) -> None:
        """Put the thread's own state back; the stop it is in then ends as any other.

        Mask before registers, for the reason that `_send` gives. The registers are those of
        the stop, restart code and all: on the way out of a stop the kernel looks for signals
        and does the rest (`ptrace_detach` sees to that).
        """
        if not self._sent:
            return
        self._sent = False
        tid = self._thread.tid
        try:
            if self._used_fpu:
                ptrace.set_xstate(tid, self._xstate)
            ptrace.set_sigmask(tid, self._sigmask)
            ptrace.set_registers(tid, self._thread.registers)
        except ProcessLookupError:
            raise Gone("the process ended while a thread of it was borrowed") from None


def _resume(watcher: Watcher) -> int:
    return ptrace.SYSCALL if watcher.every_call else ptrace.CONT


class _Nobody:
    """Who watches a program that must have no fault: one ends it."""

    every_call = False

    def fault(self, info: ptrace.SignalInfo, registers: Registers) -> None:
        """Tell a fault of the code that runs from a signal that somebody sent."""
        if info.code > 0 or info.signal == 6:
            raise Crashed(info, registers)

    def call(self, _: Registers) -> bool:
        """Have nothing against it."""
        return False

    def look(self, _: procfs.Sleep | None) -> bool:
        """Let it go on."""
        return False

    divert = call


def in_critical_section(thread: Thread, memory: Memory) -> bool:
    """Say whether a stopped thread is inside a restartable sequence (rseq(2)).

    Sent elsewhere and back, it would miss that it has to start over.
    """
    area = ptrace.rseq_area(thread.tid)
    if not area:
        return False
    descriptor = int.from_bytes(memory.read(area + 8, 8), "little")  # struct rseq, rseq_cs
    if not descriptor:
        return False
    fields = memory.read(descriptor + 8, 16)  # struct rseq_cs: start_ip, post_commit_offset
    start, length = (int.from_bytes(fields[i : i + 8], "little") for i in (0, 8))
    return 0 <= thread.registers.rip - start < length


def find_gadgets(pieces: Sequence[tuple[int, bytes]]) -> Gadgets | None:
    """Look for what remote calls need in (address, code) pieces of the target.

    A static program that handles no signals has no restorer; the way home then leads through any
    two bytes that are `pop rax; ret`.
    """
    syscall_return = _find(pieces, sigframe.SYSCALL_RETURN)
    if not syscall_return:
        return None
    for pattern in sigframe.RESTORERS:
        if restorer := _find(pieces, pattern):
            return Gadgets(syscall_return, (restorer,))
    if pop := _find(pieces, sigframe.POP_RAX_RETURN):
        return Gadgets(syscall_return, (pop, sigframe.RT_SIGRETURN, syscall_return))
    return None


def _find(pieces: Sequence[tuple[int, bytes]], pattern: bytes) -> int:
    """Return the address of the first occurrence of some bytes, 0 for none."""
    return next((a + at for a, code in pieces if (at := code.find(pattern)) >= 0), 0)

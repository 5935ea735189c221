# SPDX-License-Identifier: GPL-2.0-or-later
"""Stopping the threads of a process, and letting them go.

A stop is PTRACE_SEIZE and PTRACE_INTERRUPT of every thread until /proc/PID/task has no thread that
is not stopped: a thread can only be started by one that runs. If the patcher dies in between, the
kernel detaches all of them and each goes on where it was.

Signals are left to the kernel. A thread that was about to get one when the interrupt came is
given it at once, and stops again at the first instruction of its handler; those that
arrive during the stop stay queued and are delivered after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hotpatch.arch.registers import SIZE as REGISTERS_SIZE
from hotpatch.arch.registers import Registers
from hotpatch.errors import Gone
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.memory import Buffer

_SIGCHLD = (signal.SIGCHLD,)
_NAP = 500e-6
_BATCH = 32
_MANY = 16
_STOP_TIME = 2e-6
_NAPS = 10
_NONE = Registers()
_clock = time.perf_counter_ns
_SLOW_NS = 2_000_000
_STUCK_NS = 200_000_000  # uninterruptible sleep, or a parent in vfork
_STARVED_NS = 2_000_000_000  # waiting for a processor
_LATE_NS = 2_000_000_000

_late: set[int] = set()  # threads that were asked to stop, and had not when they were to be let go


class Thread:
    """A thread under our control; `registers` are those of its stop."""

    __slots__ = ("interrupted_ns", "registers", "stopped_ns", "tid")

    def __init__(self, tid: int, now_ns: int) -> None:
        """Begin to account for a thread that was seized at `now_ns` (time.perf_counter_ns)."""
        self.tid = tid
        self.registers = _NONE
        self.interrupted_ns = now_ns
        self.stopped_ns = now_ns


class Batch(NamedTuple):
    """Threads that stopped, with their registers one behind the other in a buffer."""

    threads: list[Thread]
    states: Buffer


class Unstoppable(Exception):
    """A thread didn't stop in time; all others were let go again."""

    def __init__(self, tid: int, state: str) -> None:
        """Keep the thread and the state letter of proc(5) in which it stayed."""
        super().__init__(f"thread {tid} stays in state {state}")
        self.tid = tid
        self.state = state


class Hold:
    """A context in which threads of a process are stopped.

    `held_ns` is, after it, the longest time for which a thread was held.
    """

    def __init__(
        self,
        pid: int,
        only: int | None = None,
        limit_ns: int | None = None,
        observer: Callable[[Batch], object] | None = None,
    ) -> None:
        """Prepare to stop all threads, or `only` one.

        `limit_ns` is how long stopping may take; entering the context raises
        Unstoppable past it, or when a thread doesn't stop at all; PermissionError where ptrace is
        denied; Gone. `observer` is given the threads as they stop, some at a time: what it does
        with them takes no time of its own while others still have to stop.
        """
        self.pid = pid
        self.threads: dict[int, Thread] = {}
        self.held_ns = 0
        self._only = only
        self._limit_ns = limit_ns or _STUCK_NS
        self._limited = limit_ns is not None
        self._observer = observer
        self._dead: set[int] = set()
        self._pending: dict[int, Thread] = {}

    def __enter__(self) -> Hold:
        """Stop them."""
        try:
            self._stop()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let them go."""
        self.release()

    def _stop(self) -> None:
        if self._only is not None:
            self._stop_each((self._only,))
            return
        self._seize(procfs.threads(self.pid))
        while not self._complete():
            tids = procfs.threads(self.pid)
            self._check_alive(tids)
            self._stop_each(tids)

    def _check_alive(self, tids: Iterable[int]) -> None:
        """Raise Gone where none but dead threads are left: killed while they were being seized.

        The parent is not told of the end of a traced leader before its tracer was.
        """
        if self.threads or any(
            tid not in self._dead or procfs.state(self.pid, tid) not in "ZX" for tid in tids
        ):
            return
        for tid in tids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(tid, ptrace.WALL | os.WNOHANG)
        raise Gone(f"process {self.pid} ended")

    def _complete(self) -> bool:
        return bool(self.threads) and procfs.thread_count(self.pid) <= len(self.threads) + sum(
            procfs.state(self.pid, tid) == "Z" for tid in self._dead
        )

    def _seize(self, tids: Iterable[int]) -> None:
        now = time.perf_counter_ns()
        for tid in tids:
            if tid in self.threads or tid in self._pending or tid in self._dead:
                continue
            if self._seize_one(tid):
                self._pending[tid] = Thread(tid, now)
            else:
                self._dead.add(tid)

    def _seize_one(self, tid: int) -> bool:
        """Seize a thread; return False if it is dead."""
        try:
            ptrace.seize(tid)
        except ProcessLookupError:
            return False
        except PermissionError:
            if tid in _late:
                return True
            if procfs.state(self.pid, tid) not in "ZX":
                raise
            return False
        return True

    def _stop_each(self, tids: Iterable[int]) -> None:
        self._seize(tids)
        self._interrupt()
        deadline = time.perf_counter_ns() + self._limit_ns
        pending = list(self._pending.values())
        for first in range(0, len(pending), _BATCH):
            batch = self._collect(pending[first : first + _BATCH], deadline)
            if self._observer is not None and batch.threads:
                self._observer(batch)

    def _interrupt(self) -> None:
        request, interrupt, clock = ptrace.raw_request, ptrace.INTERRUPT, time.perf_counter_ns
        for tid, thread in self._pending.items():
            thread.interrupted_ns = clock()
            request(interrupt, tid, None, None)  # fails if it has ended; _await will see

    def _collect(self, threads: list[Thread], deadline: int) -> Batch:
        """Wait for some interrupted threads; return those that stopped, their registers read.

        The loop is for the case that is nearly always: the thread has stopped, for our interrupt.
        While many have still to stop, it is better to sleep than to be woken by each of them: they
        need the processors.
        """
        waitpid, clock, request, getregs = os.waitpid, _clock, ptrace.raw_request, ptrace.GETREGS
        flags, interrupted = ptrace.WALL | os.WNOHANG, ptrace.INTERRUPTED
        states = Buffer(len(threads) * REGISTERS_SIZE)
        at, data, offset = states.address, states.data, states.start
        stopped: list[Thread] = []
        for thread in threads:
            tid = thread.tid
            try:
                status = waitpid(tid, flags)[1]
                naps = _NAPS if len(self._pending) > _MANY else 0
                while not status and naps:
                    time.sleep(len(self._pending) * _STOP_TIME)
                    status = waitpid(tid, flags)[1]
                    naps -= 1
            except ChildProcessError:
                status = 0
            if status != interrupted and self._await(tid, status, deadline).kind == "ended":
                self._dead.add(tid)
                del self._pending[tid]
                continue
            thread.stopped_ns = clock()
            self.threads[tid] = thread
            del self._pending[tid]
            request(getregs, tid, None, at)
            thread.registers = Registers.from_buffer(data, offset)
            at += REGISTERS_SIZE
            offset += REGISTERS_SIZE
            stopped.append(thread)
        return Batch(stopped, states)

    def _await(self, tid: int, status: int, deadline: int) -> ptrace.Stop:
        """Wait for the interrupt of one thread, passing on what comes before it.

        `status` is what waitpid has just said of it, 0 for nothing.
        """
        while True:
            soon = min(deadline, time.perf_counter_ns() + _SLOW_NS)
            stop = ptrace.decode(status) if status else wait(tid, soon)
            status = 0
            if stop is None:
                state = procfs.state(self.pid, tid)
                if state in "ZX":  # a leader that exits before its threads is never reported
                    return ptrace.ENDED
                over = time.perf_counter_ns() - deadline
                if over > (0 if self._limited or state == "D" else _STARVED_NS):
                    raise Unstoppable(tid, state)
                continue
            if stop.kind in ("event", "ended"):
                return stop
            with contextlib.suppress(ProcessLookupError):
                ptrace.request(ptrace.CONT, tid, None, stop.signal if stop.kind == "signal" else 0)

    def release(self) -> None:
        """Let every thread go; what they hold in registers is what they go on with."""
        request, detach, clock = ptrace.raw_request, ptrace.DETACH, _clock
        longest = 0
        killed = []
        for tid, thread in self.threads.items():
            if request(detach, tid, None, None) < 0:
                killed.append(tid)
            held = clock() - thread.interrupted_ns
            longest = max(longest, held)
        self.held_ns = max(self.held_ns, longest)
        self.threads = {}
        for tid in sorted(killed, key=lambda tid: tid == self.pid):  # the leader ends last
            wait(tid, time.perf_counter_ns() + _STUCK_NS)  # its parent can't before its tracer
        for tid in list(self._pending):
            _let_go(tid)
        self._pending = {}


def wait(tid: int, deadline_ns: int) -> ptrace.Stop | None:
    """Wait for a traced thread to stop or end; None when it did neither by the deadline.

    No call of the kernel waits for one tracee with a time limit and leaves the caller's other
    children alone. But each stop comes with a SIGCHLD, which `undisturbed` blocks: that is
    waited for, and should another thread of the caller take it, the next look comes soon anyway.
    """
    flags = ptrace.WALL | os.WNOHANG
    while True:
        try:
            found, status = os.waitpid(tid, flags)
        except ChildProcessError:
            return ptrace.ENDED
        if found:
            return ptrace.decode(status)
        left = deadline_ns - time.perf_counter_ns()
        if left <= 0:
            return None
        signal.sigtimedwait(_SIGCHLD, min(left / 1e9, _NAP))


def _let_go(tid: int, limit_ns: int = _STUCK_NS) -> None:
    """Detach from a thread that was seized and perhaps interrupted, and has not stopped yet.

    PTRACE_DETACH needs a stop, so one is asked for. A thread in uninterruptible sleep stops when
    that ends, and has to be let go then: see `let_go_of_late_ones`. Any other stops as soon as it
    gets a processor, and that is waited for.
    """
    with contextlib.suppress(OSError):
        ptrace.request(ptrace.INTERRUPT, tid)
    stop = wait(tid, time.perf_counter_ns() + limit_ns)
    while stop is None and procfs.state(tid, tid) not in "DZX":
        stop = wait(tid, time.perf_counter_ns() + _STUCK_NS)
    if stop is None:
        _late.add(tid)
        return
    _late.discard(tid)
    if stop.kind != "ended":
        with contextlib.suppress(OSError):
            ptrace.request(ptrace.DETACH, tid, None, stop.signal if stop.kind == "signal" else 0)


def let_go_of_late_ones() -> None:
    """Let threads go that did not stop when they were asked to, and so could not be let go.

    To be called when no stop will follow soon. A thread that takes longer still is let go by the
    next stop of its process, or by the kernel when the patcher ends.
    """
    deadline = time.perf_counter_ns() + _LATE_NS
    for tid in list(_late):
        _let_go(tid, max(0, deadline - time.perf_counter_ns()))

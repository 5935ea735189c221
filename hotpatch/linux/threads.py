# SPDX-License-Identifier: GPL-2.0-or-later
"""Stopping the threads of a process, and letting them go.

A stop is PTRACE_SEIZE and PTRACE_INTERRUPT of every thread until /proc/PID/task has no thread that
is not stopped: a thread can only be started by one that runs. If the patcher dies in between, the
kernel detaches all of them and each goes on where it was.

Signals are left to the kernel. A thread that was about to get one when the interrupt came stops for
that first. It is given the signal and interrupted anew, as any stop uses up the interrupt that is
pending (`ptrace_stop` clears JOBCTL_TRAP_STOP); so it stops again at the first instruction of the
handler, or where it was. Signals that arrive during the stop stay queued and are delivered after
it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hotpatch.arch.registers import COUNT, NO_SYSCALL, NUMBER, Registers
from hotpatch.arch.registers import SIZE as REGISTERS_SIZE
from hotpatch.arch.syscalls import PREAD64, PTRACE, WAIT4
from hotpatch.errors import Gone
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.memory import Buffer
from hotpatch.linux.vectored import Calls

_SIGCHLD = (signal.SIGCHLD,)
_NAP = 500e-6
_NAPS = 10
_STOP_TIME = 2e-6  # of one thread of many, at first
_BATCH = 32  # their stacks are to stay in the processor's cache from the copying to the search
_CHUNK = 16  # share one look at the clock
_MANY = 8
_clock = time.perf_counter_ns
_SLOW_NS = 2_000_000
_STUCK_NS = 200_000_000  # uninterruptible sleep, or a parent in vfork
_STARVED_NS = 2_000_000_000  # waiting for a processor
_LATE_NS = 2_000_000_000


class Thread:
    """A thread under our control, interrupted at `interrupted_ns` (time.perf_counter_ns).

    The registers of its stop are the row `row` of `states`. `schedstat` is what that file said
    right before, where it was watched: a piece of a buffer.
    """

    __slots__ = ("_registers", "interrupted_ns", "row", "schedstat", "states", "tid")

    def __init__(self, tid: int) -> None:
        """Begin to account for a thread that was seized."""
        self.tid = tid
        self.interrupted_ns = 0
        self.states: Buffer | None = None
        self.row = 0
        self.schedstat = memoryview(b"")
        self._registers: Registers | None = None

    @classmethod
    def stopped(cls, tid: int, registers: Registers) -> Thread:
        """Return one that stopped by itself, with these registers."""
        thread = cls(tid)
        thread._registers = registers
        return thread

    @property
    def registers(self) -> Registers:
        """Return the registers of its stop; what is changed in them is changed here only."""
        if self._registers is None:
            assert self.states is not None
            at = self.states.start + self.row * REGISTERS_SIZE
            self._registers = Registers.from_buffer(self.states.data, at)
        return self._registers

    def go_on_at(self, address: int) -> None:
        """Have it go on there when it is let go, and leave the system call that it sleeps in."""
        registers = self.registers.copy()
        registers.rip, registers.orig_rax = address, NO_SYSCALL
        ptrace.set_registers(self.tid, registers)

    def timeslices(self) -> int | None:
        """Return how often it had been on a processor when it was interrupted, if it was watched.

        If it slept before with the same number, then it slept when it was interrupted.
        """
        return procfs.parse_timeslices(self.schedstat.tobytes().rstrip(b"\0"))


class Batch(NamedTuple):
    """Threads that stopped; their registers are in `states`, from the row `first` on."""

    threads: Sequence[Thread]
    states: Buffer
    first: int

    def column(self, register: str) -> list[int]:
        """Return one register of all of them."""
        words = self.states.words[NUMBER[register] + self.first * COUNT :: COUNT]
        column: list[int] = words[: len(self.threads)].tolist()
        return column

    def content(self) -> bytearray:
        """Return all registers of all of them."""
        return self.states.content(self.first * REGISTERS_SIZE, len(self.threads) * REGISTERS_SIZE)

    def write(self, index: int) -> None:
        """Give one of them the registers that are in the buffer."""
        address = self.states.address + (self.first + index) * REGISTERS_SIZE
        ptrace.request(ptrace.SETREGS, self.threads[index].tid, None, address)


Observer = Callable[[Batch], object]

# Threads that were asked to stop, and had not when they were to be let go, and who is told then.
_late: dict[int, Observer] = {}


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
        observer: Observer = lambda _: None,
        watched: Mapping[int, int] | None = None,
    ) -> None:
        """Prepare to stop all threads, or `only` one.

        `limit_ns` is how long stopping may take; entering the context raises
        Unstoppable past it, or when a thread doesn't stop at all; PermissionError where ptrace is
        denied; Gone. `observer` is given the threads when all have stopped, some at a
        time: every thread that stops, also where the context is not entered in the end; and none
        once before, so that its code is in the caches.
        `watched` are descriptors of schedstat files, by thread: see Thread.timeslices.
        """
        self.pid = pid
        self.threads: dict[int, Thread] = {}
        self.held_ns = 0
        self._only = only
        self._limit_ns = limit_ns or _STUCK_NS
        self._limited = limit_ns is not None
        self._observer = observer
        self._watched = watched or {}
        self._dead: set[int] = set()
        self._pending: dict[int, Thread] = {}
        self._held: list[_Requests] = []

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
        for tid in tids:
            if tid in self.threads or tid in self._pending or tid in self._dead:
                continue
            if self._seize_one(tid):
                self._pending[tid] = Thread(tid)
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
        """Stop some threads; those that did are under control even if another one does not.

        Nothing else is done while some have still to stop: they need the processor that we are on.
        """
        self._seize(tids)
        pending = list(self._pending.values())
        requests = _Requests(pending, self._watched)
        self._observer(Batch((), requests.states, 0))  # what has just run, runs twice as fast
        requests.interrupt()
        stopped: list[Thread] = []
        try:
            self._wait_for_all(requests, stopped, _clock() + self._limit_ns)
        finally:
            self._take_over(requests if len(stopped) == len(pending) else _Requests(stopped))

    def _wait_for_all(self, requests: _Requests, stopped: list[Thread], deadline: int) -> None:
        """Wait for the threads that were interrupted; add those that stop to `stopped`."""
        later: list[Thread] = []
        for thread, status in zip(requests.threads, requests.wait(), strict=True):
            if status == ptrace.INTERRUPTED:
                stopped.append(thread)
            elif not status or not self._settle(thread, ptrace.decode(status), stopped):
                later.append(thread)
        for thread in later:
            self._await(thread, stopped, deadline)

    def _settle(self, thread: Thread, stop: ptrace.Stop, stopped: list[Thread]) -> bool:
        """Deal with what waitpid says of a thread; return False if it has still to stop."""
        if stop.kind == "event":
            stopped.append(thread)
        elif stop.kind == "ended":
            self._dead.add(thread.tid)
            del self._pending[thread.tid]
        else:
            with contextlib.suppress(ProcessLookupError):
                interrupt_again(thread.tid, stop.signal if stop.kind == "signal" else 0)
            return False
        return True

    def _await(self, thread: Thread, stopped: list[Thread], deadline: int) -> None:
        """Wait for one thread to stop or end, passing on what comes before its interrupt."""
        settled = False
        while not settled:
            stop = wait(thread.tid, min(deadline, _clock() + _SLOW_NS))
            if stop is None:
                state = procfs.state(self.pid, thread.tid)
                over = _clock() - deadline
                if state in "ZX":  # a leader that exits before its threads is never reported
                    stop = ptrace.ENDED
                elif over > (0 if self._limited or state == "D" else _STARVED_NS):
                    raise Unstoppable(thread.tid, state)
            settled = stop is not None and self._settle(thread, stop, stopped)

    def _take_over(self, requests: _Requests) -> None:
        """Read the registers of threads that have stopped, and show them to the observer."""
        self._held.append(requests)
        for thread in requests.threads:
            self.threads[thread.tid] = thread
            del self._pending[thread.tid]
        for batch in requests.batches():
            self._observer(batch)

    def release(self) -> None:
        """Let every thread go; what they hold in registers is what they go on with."""
        killed = [tid for requests in self._held for tid in requests.detach()]
        self.held_ns = max([self.held_ns, *(requests.held_ns for requests in self._held)])
        self._held = []
        self.threads = {}
        for tid in sorted(killed, key=lambda tid: tid == self.pid):  # the leader ends last
            wait(tid, _clock() + _STUCK_NS)  # its parent can't before its tracer
        for tid in list(self._pending):
            _let_go(tid, self._observer)
        self._pending = {}


class _Requests:
    """What is asked of some threads in a stop, prepared before it.

    `states` has room for their registers; `held_ns` is, in the end, the longest time for which one
    was held.
    """

    def __init__(self, threads: list[Thread], watched: Mapping[int, int] | None = None) -> None:
        self.threads = threads
        self.held_ns = 0
        self.states = Buffer(len(threads) * REGISTERS_SIZE)
        for row, thread in enumerate(threads):
            thread.states, thread.row = self.states, row
        self._statuses = array("i", bytes(4 * len(threads)))
        statuses, states = self._statuses.buffer_info()[0], self.states.address
        tids = [thread.tid for thread in threads]
        self._interrupt, self._ends = _interrupts(threads, watched or {})
        self._wait = Calls(
            (WAIT4, tid, statuses + 4 * row, ptrace.WALL | os.WNOHANG)
            for row, tid in enumerate(tids)
        )
        self._get = Calls(
            (PTRACE, ptrace.GETREGS, tid, 0, states + row * REGISTERS_SIZE)
            for row, tid in enumerate(tids)
        )
        self._detach = Calls((PTRACE, ptrace.DETACH, tid) for tid in tids)

    def interrupt(self) -> None:
        """Interrupt them; a request fails for one that has ended."""
        row = 0
        for first in range(0, len(self.threads), _CHUNK):
            chunk = self.threads[first : first + _CHUNK]
            now = _clock()
            for thread in chunk:
                thread.interrupted_ns = now
            end = self._ends[first + len(chunk) - 1]
            self._interrupt.make(row, end)
            row = end

    def wait(self) -> Sequence[int]:
        """Return what waitpid(2) says of each, 0 for nothing: it is running, or exited with 0.

        Many threads need the processor that we are on to stop, so it is left to them for as long as
        they are likely to take. Waiting for a few is not done here.
        """
        statuses, missing, pace = self._statuses, len(self.threads), _STOP_TIME
        for _ in range(_NAPS if missing else 0):
            nap = missing * pace if missing > _MANY else 0
            if nap:
                time.sleep(nap)
            self._wait.make(statuses.index(0))  # one that was reported is not reported again
            before, missing = missing, statuses.count(0)
            if missing <= _MANY:
                break
            pace = min(2 * pace, nap / (before - missing)) if missing < before else 2 * pace
        return statuses

    def batches(self) -> Iterator[Batch]:
        """Read their registers; yield some at a time."""
        for first in range(0, len(self.threads), _BATCH):
            self._get.make(first, first + _BATCH)
            yield Batch(self.threads[first : first + _BATCH], self.states, first)

    def detach(self) -> list[int]:
        """Let them go; return those that were killed."""
        killed = []
        for first in range(0, len(self.threads), _CHUNK):
            results = self._detach.make(first, first + _CHUNK)
            held_ns = _clock() - self.threads[first].interrupted_ns
            self.held_ns = max(self.held_ns, held_ns)
            if any(results):
                chunk = self.threads[first : first + _CHUNK]
                killed += [t.tid for t, result in zip(chunk, results, strict=True) if result]
        return killed


def _interrupts(threads: list[Thread], watched: Mapping[int, int]) -> tuple[Calls, list[int]]:
    """Return the calls that interrupt threads, and the end of those of each.

    Nothing comes between the look at a watched thread and its interrupt: it has no time to wake up,
    return to the program, and call anew.
    """
    texts = Buffer(len(watched) * procfs.SCHEDSTAT_SIZE)
    content = memoryview(texts.data)[texts.start :]
    rows: list[tuple[int, ...]] = []
    ends = []
    at = 0
    for thread in threads:
        if thread.tid in watched:
            size = procfs.SCHEDSTAT_SIZE
            thread.schedstat = content[at : at + size]
            rows.append((PREAD64, watched[thread.tid], texts.address + at, size, 0))
            at += size
        rows.append((PTRACE, ptrace.INTERRUPT, thread.tid))
        ends.append(len(rows))
    return Calls(rows), ends


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
        left = deadline_ns - _clock()
        if left <= 0:
            return None
        signal.sigtimedwait(_SIGCHLD, min(left / 1e9, _NAP))


def interrupt_again(tid: int, signal_number: int = 0) -> None:
    """Let a stopped thread go on, with a signal or none, to stop for our interrupt.

    For a thread that was interrupted and has stopped for something else. Raises OSError.
    """
    ptrace.request(ptrace.INTERRUPT, tid)
    ptrace.request(ptrace.CONT, tid, None, signal_number)


def _let_go(tid: int, observer: Observer, limit_ns: int = _STUCK_NS) -> None:
    """Detach from a thread that was seized and perhaps interrupted, and has not stopped yet.

    PTRACE_DETACH needs a stop, so one is asked for. A thread in uninterruptible sleep stops when
    that ends, and has to be let go then: see `let_go_of_late_ones`. Any other stops as soon as it
    gets a processor, and that is waited for.
    """
    with contextlib.suppress(OSError):
        ptrace.request(ptrace.INTERRUPT, tid)
    stop = wait(tid, _clock() + limit_ns)
    while stop is None and procfs.state(tid, tid) not in "DZX":
        stop = wait(tid, _clock() + _STUCK_NS)
    if stop is None:
        _late[tid] = observer
        return
    _late.pop(tid, None)
    if stop.kind == "ended":
        return
    if stop.kind == "event":
        with contextlib.suppress(OSError):
            for batch in _Requests([Thread(tid)]).batches():
                observer(batch)
    with contextlib.suppress(OSError):
        ptrace.request(ptrace.DETACH, tid, None, stop.signal if stop.kind == "signal" else 0)


def let_go_of_late_ones() -> None:
    """Let threads go that did not stop when they were asked to, and so could not be let go.

    To be called when no stop will follow soon. A thread that takes longer still is let go by the
    next stop of its process, or by the kernel when the patcher ends.
    """
    deadline = _clock() + _LATE_NS
    for tid, observer in list(_late.items()):
        _let_go(tid, observer, max(0, deadline - _clock()))

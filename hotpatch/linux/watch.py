# SPDX-License-Identifier: GPL-2.0-or-later
"""Being told of the signals of a process while it runs: `Watch`.

Every thread is traced and none is stopped. A thread stops by itself when it is about to get a
signal, and goes on with that, or when it starts another one. The tracer is the calling thread, and
its end is the end of the tracing: the kernel detaches what it traces, wherever that is, without
another stop (`exit_ptrace`). So nothing has to be undone, and there is nothing that the death of
the patcher could leave behind.

A traced thread is woken also by the signals that its program ignores, and every one by a SIGCONT
(`sig_ignored` and `ptrace_trap_notify`, kernel/signal.c). What it would see of that is concealed
as in the stops of an update (`hotpatch.linux.restart`). So that no thread is in such a stop as the
watch ends, each is let go from a stop of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from hotpatch.arch.registers import EINTR, Registers
from hotpatch.errors import Gone
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.restart import Look, Looks, Restarter

_LOOK = 0.02  # seconds between two looks, should a SIGCHLD be lost
_OFTEN = 0.001  # the same where other threads of ours may take them
_TURNS = 100
_STOPPED = os.WSTOPPED | os.WNOHANG | ptrace.WALL | ptrace.WNOTHREAD
_ENDED = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
_LONGEST_STOP, _LONGEST_LEAVE = 0.1, 2.0  # seconds until a thread, and all, are given up
_NOTHING_BY_DEFAULT = frozenset((signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH))


class Ended(NamedTuple):
    """How the watched program ended: `signal` that killed it, 0 for none; or by an exec."""

    signal: int
    replaced: bool


Judge = Callable[[int, int], None]
"""Is told of a thread and a signal that it is about to get; the thread stands still meanwhile."""


class Watch:
    """The tracing of one process by the calling thread, which has no children of its own.

    That thread has to end soon after `run` returns. Stops are seen soonest if SIGCHLD is blocked in
    all threads.
    """

    def __init__(self, pid: int, judge: Judge, restarter: Restarter) -> None:
        """Prepare; `judge` is asked before a signal is delivered."""
        self._pid = pid
        self._judge = judge
        self._restarter = restarter
        self._seen: set[int] = set()
        self._is_init = procfs.innermost_pid(pid) == 1
        self._killed_by = 0
        self._leaving = 0
        self._look: Look | None = None
        self._pause = _LOOK

    def run(self, goes_on: Callable[[], bool], began: Callable[[], None]) -> Ended | None:
        """Watch for as long as `goes_on`; return how the program ended, if it did.

        `began` is called when all threads are traced. Raises PermissionError where ptrace is
        denied.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        self._pause = _LOOK if _all_block(signal.SIGCHLD) else _OFTEN
        self._seize_all()
        began()
        while goes_on():
            ended = self._settle()
            if ended is not None:
                return ended
        return self._let_go()

    def _seize_all(self) -> None:
        """Trace every thread: those that these start are traced from their beginning."""
        options = ptrace.O_TRACECLONE | ptrace.O_TRACEEXEC
        for _ in range(_TURNS):
            new = [tid for tid in procfs.threads(self._pid) if tid not in self._seen]
            if not new:
                return
            for tid in new:
                self._seen.add(tid)
                try:
                    ptrace.seize(tid, options)
                except ProcessLookupError:
                    continue
                except PermissionError:
                    # Started by one that is traced already, so it is traced, too; or dead.
                    if not self._is_ours(tid) and procfs.state(self._pid, tid) not in "ZX":
                        raise

    def _is_ours(self, tid: int) -> bool:
        tracer = procfs.status(self._pid, tid).get("TracerPid")
        return tracer == str(threading.get_native_id())

    def _settle(self) -> Ended | None:
        """Deal with a thread that has stopped or ended, or wait for one a moment.

        Returns how the process ended, if it did. The leader is left for its parent, which may be
        another thread of ours, to wait for.
        """
        try:
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | _STOPPED)
        except ChildProcessError:
            leaves, self._leaving = self._leaving, 0
            return None if leaves else Ended(self._killed_by, False)
        if seen is None:
            signal.sigtimedwait((signal.SIGCHLD,), self._pause)
        elif seen.si_code not in _ENDED:
            with contextlib.suppress(ChildProcessError):
                stop = os.waitid(os.P_PID, seen.si_pid, _STOPPED)
                if stop is not None:  # else it was killed meanwhile
                    return self._answer(stop.si_pid, stop.si_status >> 8, stop.si_status & 0xFF)
        elif seen.si_pid == self._pid:
            return Ended(seen.si_status & 0x7F if seen.si_code != os.CLD_EXITED else 0, False)
        else:
            os.waitpid(seen.si_pid, _STOPPED)
            if seen.si_pid == self._leaving:
                self._leaving = 0
        return None

    def _answer(self, tid: int, event: int, number: int) -> Ended | None:
        """Let a thread go on from a stop; return how its program ended if that has called exec."""
        leaves = tid == self._leaving
        how = ptrace.DETACH if leaves else ptrace.CONT
        if event == ptrace.EVENT_STOP and number != ptrace.SIGTRAP:
            how = ptrace.DETACH if leaves else ptrace.LISTEN  # it stays stopped until SIGCONT
        else:
            with contextlib.suppress(OSError):  # it is killed meanwhile
                if event == ptrace.EVENT_STOP:
                    self._conceal(tid, None)
                elif not event:
                    self._conceal(tid, number)
                    if self._ends_init(tid, number):
                        how, self._killed_by = ptrace.DETACH, number
                    self._judge(tid, number)
        with contextlib.suppress(OSError):
            ptrace.request(how, tid, None, 0 if event else number)
        if leaves:
            self._leaving = 0
        return Ended(0, True) if event == ptrace.EVENT_EXEC else None

    def _conceal(self, tid: int, number: int | None) -> None:
        """Have a call go on that was interrupted for nothing, or for a signal that is ignored."""
        registers = Registers()
        ptrace.get_registers(tid, registers)
        if -registers.result != EINTR or (number is not None and not _ignored(tid, number)):
            return
        look = self._look if tid == self._leaving else None
        if self._restarter.conceal_one(tid, registers, look):
            ptrace.set_registers(tid, registers)

    def _let_go(self) -> Ended | None:
        """Detach all threads, one after the other; return how the process ended, if it did.

        One that doesn't come to a stop in time is left to the kernel.
        """
        given_up = time.monotonic() + _LONGEST_LEAVE
        done: set[int] = set()
        with contextlib.suppress(Gone):
            while new := [tid for tid in procfs.threads(self._pid) if tid not in done]:
                for tid in new:
                    done.add(tid)
                    ended = self._let_one_go(tid, given_up)
                    if ended is not None or time.monotonic() > given_up:
                        return ended
        return None

    def _let_one_go(self, tid: int, given_up: float) -> Ended | None:
        """Detach a thread from a stop; return how its process ended meanwhile, if it did."""
        given_up = min(given_up, time.monotonic() + _LONGEST_STOP)
        with Looks(self._pid, (tid,)) as looks:
            look, schedstat = looks.get(tid), looks.watched.get(tid)
            if look and schedstat and procfs.timeslices(schedstat) != look.timeslices:
                look = None
        self._leaving, self._look = tid, look
        ended = None
        with contextlib.suppress(OSError):  # it has ended, or is not traced
            ptrace.request(ptrace.INTERRUPT, tid)
            while self._leaving and ended is None and time.monotonic() < given_up:
                ended = self._settle()
        self._leaving, self._look = 0, None
        return ended

    def _ends_init(self, tid: int, number: int) -> bool:
        """Tell whether a signal ends the first process of a pid namespace, by its own fault.

        It does not while that is traced: it would fault again, for ever (`force_sig_info_to_task`,
        kernel/signal.c).
        """
        if not self._is_init or ptrace.get_siginfo(tid).code <= 0:
            return False
        return not int(procfs.status(tid)["SigCgt"], 16) >> (number - 1) & 1


def _all_block(number: int) -> bool:
    """Tell whether all our threads block a signal."""
    own = os.getpid()
    with contextlib.suppress(Gone):  # a thread has ended
        masks = [procfs.status(own, tid)["SigBlk"] for tid in procfs.threads(own)]
        return all(int(mask, 16) >> (number - 1) & 1 for mask in masks)
    return False


def _ignored(tid: int, number: int) -> bool:
    """Tell whether nothing is done about a signal, as its program asked or by default."""
    status = procfs.status(tid)
    bit = 1 << (number - 1)
    if number in _NOTHING_BY_DEFAULT:
        return not int(status["SigCgt"], 16) & bit
    return bool(int(status["SigIgn"], 16) & bit)


def until(seconds: float, asked: Callable[[], bool]) -> Callable[[], bool]:
    """Return what says to go on for so long, unless `asked` to end."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline and not asked()

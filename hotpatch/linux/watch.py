# SPDX-License-Identifier: GPL-2.0-or-later
"""Being told of the signals of a process while it runs: `watch`.

Every thread is traced and none is stopped. A thread stops by itself when it is about to get a
signal, and goes on with that, or when it starts another one. The tracer is the calling thread, and
its end is the end of the tracing: the kernel detaches what it traces, wherever that is, without
another stop (`exit_ptrace`). So there is nothing to be undone, and nothing that the death of the
patcher could leave behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from hotpatch.linux import procfs, ptrace

_LOOK = 0.02  # seconds between two looks, should somebody else take our SIGCHLD
_TURNS = 100


class Ended(NamedTuple):
    """How the watched program ended: `signal` that killed it, 0 for none; or by an exec."""

    signal: int
    replaced: bool


Judge = Callable[[int, int], None]
"""Is told of a thread and a signal that it is about to get; the thread stands still meanwhile."""


def watch(
    pid: int, judge: Judge, goes_on: Callable[[], bool], began: Callable[[], None]
) -> Ended | None:
    """Watch a process from the calling thread for as long as `goes_on`; return how it ended.

    `began` is called when all threads are traced. The caller's thread has to end soon after this
    returns, and to have no children of its own; SIGCHLD should be blocked in all threads.
    Raises PermissionError where ptrace is denied.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    seen: set[int] = set()
    _seize_all(pid, seen)
    began()
    while goes_on():
        ended = _settle_all(pid, seen, judge)
        if ended is not None:
            return ended
        signal.sigtimedwait((signal.SIGCHLD,), _LOOK)
    return None


def _seize_all(pid: int, seen: set[int]) -> None:
    """Trace every thread: those that these start are traced from their beginning."""
    options = ptrace.O_TRACECLONE | ptrace.O_TRACEEXEC
    for _ in range(_TURNS):
        new = [tid for tid in procfs.threads(pid) if tid not in seen]
        if not new:
            return
        for tid in new:
            seen.add(tid)
            try:
                ptrace.seize(tid, options)
            except ProcessLookupError:
                continue
            except PermissionError:
                # Started by one that is traced already, so it is traced, too; or dead.
                if not _is_ours(pid, tid) and procfs.state(pid, tid) not in "ZX":
                    raise


def _is_ours(pid: int, tid: int) -> bool:
    return procfs.status(pid, tid).get("TracerPid") == str(threading.get_native_id())


def _settle_all(pid: int, seen: set[int], judge: Judge) -> Ended | None:
    """Deal with every thread that has stopped or ended; return how the process ended, if it did."""
    while True:
        try:
            tid, status = os.waitpid(-1, os.WNOHANG | ptrace.WALL | ptrace.WNOTHREAD)
        except ChildProcessError:
            return Ended(0, False)
        if not tid:
            return None
        if not os.WIFSTOPPED(status):
            if tid == pid:
                return Ended(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, False)
            continue
        event = status >> 16
        if event == ptrace.EVENT_EXEC:
            _go_on(tid, ptrace.CONT, 0)
            return Ended(0, True)
        _answer(tid, event, os.WSTOPSIG(status), judge)


def _answer(tid: int, event: int, number: int, judge: Judge) -> None:
    """Let a thread go on from a stop."""
    if event == ptrace.EVENT_STOP and number != ptrace.SIGTRAP:
        _go_on(tid, ptrace.LISTEN, 0)  # job control: it stays stopped until SIGCONT
    elif event:
        _go_on(tid, ptrace.CONT, 0)
    else:
        with contextlib.suppress(OSError):  # it is killed meanwhile
            judge(tid, number)
        _go_on(tid, ptrace.CONT, number)


def _go_on(tid: int, request: int, number: int) -> None:
    with contextlib.suppress(OSError):
        ptrace.request(request, tid, None, number)


def until(seconds: float, asked: Callable[[], bool]) -> Callable[[], bool]:
    """Return what says to go on for so long, unless `asked` to end."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline and not asked()

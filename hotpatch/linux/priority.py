# SPDX-License-Identifier: GPL-2.0-or-later
"""Being quick while the target is held.

A patcher at normal priority competes with the very threads that it is about to let go; and a
garbage collection or a signal handler in the middle of a stop would be felt as a pause. What the
kernel doesn't allow is done without: nothing here is needed for safety.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator

_NICE = -10
_hurrying = threading.Event()


def hurry() -> None:
    """Make the calling thread a bit more urgent, where allowed and nobody has chosen otherwise.

    The command is soon done then, and costs the target no more: the same work is only done in less
    time.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except OSError:
        return  # no CAP_SYS_NICE, nor RLIMIT_NICE
    _hurrying.set()


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Start other programs in this context: as the caller of a thread that hurries would."""
    if not _hurrying.is_set():
        yield
        return
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run the calling thread with real-time priority where allowed, unsignalled, uncollected.

    The SIGCHLDs of tracees are taken by `threads.wait`. One may have been that of another child, so
    a caller that listens for them is sent one at the end. The handlers of other signals run just
    before they are blocked, and when they are unblocked; what they raise does not leave them so.
    """
    collecting = gc.isenabled()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    restore: Callable[[], object] = tuple
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        gc.disable()
        restore = raise_priority()
        yield
    finally:
        restore()
        if collecting:
            gc.enable()
        if signal.getsignal(signal.SIGCHLD) not in (signal.SIG_DFL, signal.SIG_IGN):
            os.kill(os.getpid(), signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def raise_priority() -> Callable[[], object]:
    """Raise the priority of the calling thread; return what undoes it.

    SCHED_FIFO may be denied (no CAP_SYS_NICE, or a cgroup without real-time budget); a better
    nice value would then be, too.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    if policy == os.SCHED_OTHER:  # anything else was somebody's choice
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
            return lambda: os.sched_setscheduler(0, policy, parameter)
    return lambda: None

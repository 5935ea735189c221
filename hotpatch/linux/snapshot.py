# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of a process's memory as it was at one moment, to be looked at while the process runs.

It is a child of the process that shares nothing of its memory, was born stopped under our trace
(clone(2) with CLONE_PTRACE) and never gets to run anything but exit_group(2). The kernel copies a
page only when the process writes to it while the snapshot is there.

If we die, the kernel lets the child go, and it ends. As it sends no signal at its end, no wait(2)
of the process sees it, unless that asks for such children (__WALL, __WCLONE): it has to be reaped
by one of the process's threads, with __WCLONE.
"""

from __future__ import annotations

import contextlib
import os
import time

from hotpatch.linux import ptrace
from hotpatch.linux.memory import Memory
from hotpatch.linux.threads import wait

_LIMIT_NS = 2_000_000_000


class Lost(Exception):
    """The child was ended by somebody else, or did not stop."""


class Snapshot:
    """The frozen child; `memory` is what it is for, closed with the context."""

    def __init__(self, pid: int) -> None:
        """Take over a child that was just born, traced by the calling thread; raises Lost."""
        self.pid = pid
        stop = wait(pid, time.perf_counter_ns() + _LIMIT_NS)
        if stop is None or stop.kind == "ended":
            raise Lost
        try:
            self.memory = Memory(pid)
        except OSError:
            raise Lost from None

    def __enter__(self) -> Snapshot:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its memory."""
        self.memory.close()

    def is_whole(self) -> bool:
        """Say whether the child is still there, and so was there all the time."""
        return os.waitpid(self.pid, ptrace.WALL | os.WNOHANG)[0] == 0


def end(pid: int) -> None:
    """Let a traced child go on until it has ended, as far as that takes no longer than 2 s.

    It is then a zombie of the process that it is a copy of. A child that is not traced by us is
    left alone.
    """
    deadline = time.perf_counter_ns() + _LIMIT_NS
    while True:
        with contextlib.suppress(ProcessLookupError):  # it is not stopped
            ptrace.request(ptrace.CONT, pid)
        stop = wait(pid, deadline)
        if stop is None or stop.kind == "ended":
            return

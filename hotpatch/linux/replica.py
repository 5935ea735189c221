# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of a process in which code may be tried out: what it does reaches nobody.

It is born as a snapshot is (`linux.snapshot`): a child of the process that shares nothing of its
private memory, stopped and under our trace, whose own code path is exit_group(2). Before it runs
anything else, the kernel is told to kill it when we end (PTRACE_O_EXITKILL, which is used for
nobody else), and what it shares with the process is made read-only for it. Each system call of it
is looked at before it is made. So it can neither live on nor write to anything but its own memory.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

from hotpatch.arch import syscalls
from hotpatch.arch.registers import Registers
from hotpatch.errors import HotpatchError
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.memory import Memory
from hotpatch.linux.remote import Borrowed, Gadgets
from hotpatch.linux.snapshot import Lost
from hotpatch.linux.threads import Thread, wait

_LIMIT_NS = 2_000_000_000
_PROT_READ = 1


class Replica:
    """The child; `memory` is its own. A context, at whose end it is a zombie of the process."""

    def __init__(self, pid: int, gadgets: Gadgets) -> None:
        """Take over a child that was just born, traced by the calling thread; raises Lost."""
        self.pid = pid
        self._gadgets = gadgets
        stop = wait(pid, time.perf_counter_ns() + _LIMIT_NS)
        if stop is None or stop.kind == "ended":
            raise Lost
        try:
            ptrace.set_options(pid, ptrace.O_TRACESYSGOOD | ptrace.O_EXITKILL)
            self.memory = Memory(pid)
            registers = Registers()
            ptrace.get_registers(pid, registers)
        except OSError:
            raise Lost from None
        self._thread = Thread.stopped(pid, registers)

    def __enter__(self) -> Replica:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        self.memory.close()
        os.kill(self.pid, signal.SIGKILL)
        stop = wait(self.pid, time.perf_counter_ns() + _LIMIT_NS)
        while stop is not None and stop.kind != "ended":
            stop = wait(self.pid, time.perf_counter_ns() + _LIMIT_NS)

    def borrowed(self) -> Borrowed:
        """Return its thread, to be sent to code."""
        return Borrowed(self._thread, self.memory, self._gadgets)

    def seclude(self) -> list[tuple[int, int]]:
        """Make what it shares with others read-only for it; return the (start, end) of that.

        Raises HotpatchError where the kernel doesn't let it.
        """
        shared = [area for area in procfs.mappings(self.pid) if _is_shared(area)]
        with self.borrowed() as borrowed:
            for area in shared:
                size = area.end - area.start
                result = borrowed.syscall(syscalls.MPROTECT, area.start, size, _PROT_READ)
                if result:
                    raise HotpatchError(
                        f"memory that is shared can't be kept from a replica: "
                        f"{os.strerror(-result)}",
                        "use --no-rehearse",
                    )
        return [(area.start, area.end) for area in shared]

    def private_kib(self) -> int:
        """Return how much memory it has of its own, in KiB."""
        return procfs.private_kib(self.pid)


def _is_shared(area: procfs.Mapping) -> bool:
    return area.protection[1] == "w" and area.protection[3] == "s"


def is_inside(address: int, spans: Iterable[tuple[int, int]]) -> bool:
    """Say whether an address lies in one of (start, end) spans."""
    return any(start <= address < end for start, end in spans)

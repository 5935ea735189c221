# SPDX-License-Identifier: GPL-2.0-or-later
"""Code of the patch that runs at the commit and at a revert: resolvers, constructors, destructors.

It runs in a borrowed thread, on a stack of its own, with signals blocked and all other threads
held. A thread is borrowed for it only while it waits in a system call that is not one of the
allocator's: a function that calls malloc must not find itself inside malloc. Another thread may
still hold the lock it wants; it is then given up, its data made fresh, and tried at another moment.

Death of the patcher here leaves the borrowed thread to finish the calls by itself and go home; the
switch stays as it was. Code that crashes when nobody watches ends the target: that is not promised.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hotpatch.arch import syscalls
from hotpatch.errors import RolledBack
from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory
from hotpatch.linux.remote import Borrowed, Crashed, Overdue, Program
from hotpatch.linux.threads import Hold, Thread
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence.stacks import StackMap
from hotpatch.update.borrow import suitable
from hotpatch.update.moment import NotNow
from hotpatch.update.session import Session

if TYPE_CHECKING:
    from hotpatch.update.plan import Plan

LIMIT_NS = 100_000_000
_NOT_RUN = 0x746F6E2D6E757221
_MOST = 4096 // 16


class Place:
    """Where a patch's functions are run: the program that calls them, and the stack."""

    def __init__(self, record: ledger.Record) -> None:
        """Take both from the ledger; the table of functions lies at the low end of the stack."""
        self.stack = record.stack
        self.program = Program(*record.call)


def run(session: Session, hold: Hold, plan: Plan) -> None:
    """Run what a plan wants run at the commit; raises NotNow, RolledBack."""
    if not plan.calls:
        return
    process = session.process
    place = Place(plan.record)
    resolvers = [call for call in plan.calls if call.slot is not None]
    others = [call.address for call in plan.calls if call.slot is None]
    values = run_each(session, hold, place, [call.address for call in resolvers], "IFUNC resolver")
    for call, value in zip(resolvers, values, strict=True):
        assert call.slot is not None
        process.memory.write(call.slot, struct.pack("<Q", value))
    run_each(session, hold, place, others, "constructor")


def run_each(
    session: Session, hold: Hold, place: Place, functions: Sequence[int], kind: str
) -> list[int]:
    """Run functions of the patch; `place` has the call code and the stack. Return results."""
    found: list[int] = []
    for first in range(0, len(functions), _MOST):
        found += _run_some(session, hold, place, functions[first : first + _MOST], kind)
    return found


def _run_some(
    session: Session, hold: Hold, place: Place, functions: Sequence[int], kind: str
) -> list[int]:
    process = session.process
    stacks = StackMap(process.pid, procfs.mappings(process.pid))
    thread = suitable(session, hold, stacks, waits)
    if thread is None:
        raise NotNow(f"no thread waits in a system call from which a {kind} could be run")
    process.memory.write(place.stack, table(functions))
    with Borrowed(thread, process.memory, process.gadgets) as borrowed:
        try:
            borrowed.run(
                place.program,
                place.stack + ledger.STACK_SIZE,
                LIMIT_NS,
                rbx=place.stack,
                r12=len(functions),
            )
        except Crashed as crash:
            raise _crashed(process, crash, kind, place.stack, len(functions)) from None
        except Overdue as overdue:
            if overdue.registers.orig_rax == syscalls.FUTEX:
                raise NotNow(f"a {kind} waits for a lock that a held thread has") from None
            raise RolledBack(
                f"a {kind} of the patch did not end within {LIMIT_NS // 1_000_000} ms",
                "it runs with all threads stopped: let it only initialise the patch's own data",
            ) from None
    return results(process.memory, place, len(functions))


def table(functions: Sequence[int]) -> bytes:
    """Return what trampolines/x86_64/call.S works on."""
    return b"".join(struct.pack("<QQ", function, _NOT_RUN) for function in functions)


def results(memory: Memory, place: Place, count: int) -> list[int]:
    """Return what functions have returned."""
    words = struct.unpack(f"<{2 * count}Q", memory.read(place.stack, 16 * count))
    return list(words[1::2])


def waits(thread: Thread) -> bool:
    """Say whether a thread waits in a system call that is not one of the allocator's."""
    return thread.registers.syscall in syscalls.WAITING and thread.registers.result < 0


def _crashed(process: Process, crash: Crashed, kind: str, table: int, count: int) -> RolledBack:
    words = struct.unpack(f"<{2 * count}Q", process.read(table, 16 * count))
    function = next((f for f, result in zip(words[::2], words[1::2], strict=True)
                     if result == _NOT_RUN), 0)  # fmt: skip
    where = process.symbolic(crash.registers.rip)
    return RolledBack(
        f"a {kind} of the patch ({function:#x}) got signal {crash.info.signal} at "
        f"{crash.registers.rip:#x}{f' in {where}' if where else ''}",
        "the target has its old code; mend the patch",
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Arm and commit: the two steps that a running thread can notice.

Arming redirects each entry to its gate, whose switch is off: it goes on in the old function, by
way of the displaced instructions. An entry may be written at a moment when no thread is in the
bytes, nor will return into them; each write is complete in itself, so death between two of
them leaves some functions with a gate and some without, and all of them old.

The commit is one aligned store of the switch. Before it all is old, after it all is new; there is
no between in which a patcher could die.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from hotpatch.errors import HotpatchError
from hotpatch.linux.threads import Hold
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence.ranges import Range
from hotpatch.update import calls
from hotpatch.update.chain import is_armed
from hotpatch.update.drain import Drain
from hotpatch.update.moment import NotNow, at_quiescence
from hotpatch.update.session import Session

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.update.plan import Plan

_BATCH = 64  # entries checked for one stop
_BUDGET_NS = 300_000  # what writing entries may add to a stop


def arm(session: Session, functions: Sequence[ledger.Function]) -> None:
    """Redirect the entries to their gates; raises Busy, Gone, Denied."""
    _write_entries(session, "arm", functions)


def disarm(session: Session, functions: Sequence[ledger.Function]) -> None:
    """Restore the entries; the gates must be off. Raises Busy, Gone, Denied."""
    _write_entries(session, "disarm", functions)


def _write_entries(session: Session, phase: str, functions: Sequence[ledger.Function]) -> None:
    """Write entries in as many short stops as it takes."""
    done = 0
    while done < len(functions):
        batch = functions[done : done + _BATCH]
        ranges = [Range(start, end, f.name) for f in batch for start, end in f.guarded]
        action = partial(_write_some, session.process, phase, batch)
        done += at_quiescence(session, phase, ranges, action)


def _write_some(process: Process, phase: str, functions: Sequence[ledger.Function], _: Hold) -> int:
    """Write entries until the time for one stop is used up; return how many."""
    began = time.perf_counter_ns()
    for count, function in enumerate(functions, 1):
        for write in function.arm if phase == "arm" else function.disarm:
            process.memory.write(write.address, write.data)
        if time.perf_counter_ns() - began > _BUDGET_NS:
            return count
    return len(functions)


def commit(session: Session, plan: Plan, elf: ElfFile) -> None:
    """Turn an armed patch, whose file is `elf`, from old to new.

    Raises Busy, RolledBack, Gone, Denied.
    """
    memory = session.process.memory
    now = struct.pack("<Q", time.time_ns())
    memory.write(plan.header + ledger.TIME_OFFSET, now)
    session.coroutines.note(plan.header)
    switch = plan.header + ledger.SWITCH_OFFSET
    on = struct.pack("<I", ledger.ON)

    def act(hold: Hold) -> bool:
        try:
            calls.run(session, hold, plan)
            if plan.steps:
                _carry_over(session, hold, plan)
        except NotNow:
            plan.renew(memory)
            raise
        memory.write(switch, on)
        return True

    with (
        _explained(session, plan, elf),
        Drain(session, plan.header, plan.record, ledger.OFF) as drain,
    ):
        at_quiescence(session, "commit", plan.active, act, drain=drain)


def _explained(
    session: Session, plan: Plan, elf: ElfFile
) -> contextlib.AbstractContextManager[None]:
    if not plan.steps:
        return contextlib.nullcontext()
    from hotpatch.update.failure import Image, explained  # noqa: PLC0415

    start, size = plan.record.regions[0]
    return explained(session, Image(elf, plan.bias, start, start + size))


def _carry_over(session: Session, hold: Hold, plan: Plan) -> None:
    from hotpatch.update.job import Switch  # noqa: PLC0415 - most patches carry no state over
    from hotpatch.update.transfer import carry_over  # noqa: PLC0415

    switch = plan.header + ledger.SWITCH_OFFSET
    carry_over(
        session,
        hold,
        plan.record,
        plan.steps,
        Switch(plan.header, plan.regions[0].header_size, switch, ledger.ON),
    )


def settle(session: Session, plan: Plan) -> None:
    """Read back what makes the patch applied, then say so in the ledger."""
    process = session.process
    wrong = [f.name for f in plan.functions if not is_armed(process, f)]
    switch = process.read(plan.header + ledger.SWITCH_OFFSET, 4)
    if wrong or switch != struct.pack("<I", ledger.ON):
        raise HotpatchError(
            f"after the commit the target reads back differently: {', '.join(wrong) or 'switch'}",
            "something else writes to its code; do not rely on the patch",
        )
    process.memory.write(plan.header + ledger.STATE_OFFSET, struct.pack("<I", ledger.APPLIED))
    header = process.read(plan.header, len(plan.regions[0].header))
    entry = ledger.decode(plan.header, header)
    if entry is None or (entry.state, entry.record.id) != (ledger.APPLIED, plan.id):
        raise HotpatchError("the ledger reads back differently after the commit")

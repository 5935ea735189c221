# SPDX-License-Identifier: GPL-2.0-or-later
"""Apply: plan, stage, arm, commit, settle."""

from __future__ import annotations

import contextlib

from hotpatch.errors import HotpatchError, Refused
from hotpatch.linux.threads import let_go_of_late_ones
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.update import stage as staging
from hotpatch.update.commit import arm, commit, settle
from hotpatch.update.plan import Plan, make_plan
from hotpatch.update.recover import recover, remove
from hotpatch.update.result import FunctionChange, PatchName, Result
from hotpatch.update.session import Options, Session

_PLACES_TRIED = 3


def apply(process: Process, patch: PatchFile, options: Options, force: bool = False) -> Result:
    """Apply a patch to a process; raises the errors of `hotpatch.errors`.

    After any of them the target has its old code.
    """
    process.lock()
    try:
        session = Session(process, options)
        recover(session)
        to_rehearse = bool(patch.transfers) and options.rehearse
        if to_rehearse:
            from hotpatch.update.rehearsal import expect_affordable, rehearse  # noqa: PLC0415

            expect_affordable(session)
        plan = _staged(session, patch, force)
        session.warnings += plan.warnings
        try:
            arm(session, plan.functions)
            if to_rehearse:
                session.rehearsal = rehearse(session, plan, patch.elf)
            commit(session, plan, patch.elf)
        except BaseException:
            _take_back(process, plan, options)
            raise
        settle(session, plan)
        process.refresh()
        return session.result("applied", PatchName(plan.id, plan.name), changes(plan))
    finally:
        let_go_of_late_ones()
        process.unlock()


def _staged(session: Session, patch: PatchFile, force: bool) -> Plan:
    """Plan and stage; again, when the target has mapped something else into the place meanwhile."""
    for _ in range(_PLACES_TRIED):
        plan = make_plan(session.process, patch, force, require_types=session.options.require_types)
        try:
            staging.stage(session, plan)
        except staging.Occupied:
            session.refresh()
            continue
        except BaseException:
            _take_back(session.process, plan, session.options)
            raise
        session.refresh()
        return plan
    raise Refused("the target keeps mapping memory where the patch is to go", "try again")


def _take_back(process: Process, plan: Plan, options: Options) -> None:
    """Remove what was staged and armed of an update that does not come to its commit.

    What can't be removed now, as the target is gone or too busy, the next patcher removes: it
    is switched off.
    """
    with contextlib.suppress(HotpatchError, OSError):
        process.refresh()
        session = Session(process, options._replace(max_pause_ms=None, on_progress=None))
        for entry in process.patches:
            if entry.address == plan.header and entry.switch == ledger.OFF:
                remove(session, entry)
                return
        recover(session)


def changes(plan: Plan) -> tuple[FunctionChange, ...]:
    """Return the functions of a plan as the result names them."""
    return tuple(
        FunctionChange(f.name, f.module, f"{f.old:#x}", f"{f.new:#x}") for f in plan.record.replaced
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Recover: what a dead patcher left is finished, or removed.

Its switch decides. On: the commit has happened, and only the ledger may not say so yet. Off: the
target runs its old code, through gates or not; the entries are restored and the memory is given
back. Dying here again changes nothing of this.
"""

from __future__ import annotations

import struct

from hotpatch.process import ledger
from hotpatch.update import chain
from hotpatch.update.commit import disarm
from hotpatch.update.session import Session, no_time


def recover(session: Session) -> None:
    """Bring a target into one of the states that a living patcher leaves.

    Raises Busy where it is still carrying state over by itself.
    """
    process = session.process
    if any(patch.record.transfer for patch in process.patches):
        _await_transfers(session)
    for patch in process.patches:
        if patch.waiting:  # its patcher died in a drain, which has ended or will by itself
            switch = struct.pack("<I", patch.switch)
            process.memory.write(patch.address + ledger.SWITCH_OFFSET, switch)
        if patch.switch == ledger.ON and patch.state != ledger.APPLIED:
            applied = struct.pack("<I", ledger.APPLIED)
            process.memory.write(patch.address + ledger.STATE_OFFSET, applied)
            session.warnings.append(f"finished {patch.record.name}, whose patcher died")
    remove_switched_off(session)
    for remnant in process.remnants:
        from hotpatch.update.unmap import unmap  # noqa: PLC0415 - seldom needed

        kept = unmap(session, [(remnant.address, remnant.size)], "an unfinished patch")
        if kept:
            session.warnings.append(kept)
    session.refresh()


def _await_transfers(session: Session) -> None:
    """Wait for transfers whose patcher died: they come to an end by themselves, old or new."""
    from hotpatch.update import job  # noqa: PLC0415 - most patches carry no state over

    process = session.process
    tries = 0
    for patch in process.patches:
        record = patch.record
        while record.transfer and job.outcome(process.memory, record.stack).park == job.RUNNING:
            tries += 1
            if not session.wait_before_retry("transfer", tries, ()):
                raise no_time(f"{record.name} is carrying state over, though its patcher died",
                              session)  # fmt: skip
    process.refresh()


def remove_switched_off(session: Session) -> None:
    """Remove every patch that is off and that no other one leads through, newest first.

    What could not be given back in this session already is left to the next one.
    """
    process = session.process
    for patch in reversed(process.patches):
        if patch.address in session.kept:
            continue
        if patch.switch == ledger.OFF and not chain.above(process, patch):
            kept = remove(session, patch)
            if kept:
                session.warnings.append(kept)


def remove(session: Session, patch: ledger.Entry) -> str | None:
    """Disarm a patch that is off, and unmap it; return why it stays mapped, if it does."""
    from hotpatch.update.unmap import present, unmap  # noqa: PLC0415 - not needed to apply

    process = session.process
    disarm(session, [f for f in patch.record.functions if chain.is_begun(process, f)])
    users = chain.built_upon(process, patch)
    if users:  # they are kept because something may call them yet
        session.kept.add(patch.address)
        names = ", ".join(user.record.name for user in users)
        return f"{patch.record.name} stays mapped: {names}, mapped still, leads into it"
    kept = unmap(session, present(session, patch.record.regions), patch.record.name)
    session.refresh()
    return kept

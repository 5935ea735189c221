# SPDX-License-Identifier: GPL-2.0-or-later
"""Revert: the switch goes back, the entries are restored, the memory is given back.

The store of the switch is to a revert what it is to an update. When it is done the target
runs its old code; all that follows is tidying up, which the next patcher would do as well.
"""

from __future__ import annotations

import contextlib
import struct

from hotpatch.errors import HotpatchError, Refused, RolledBack
from hotpatch.linux.threads import Hold, let_go_of_late_ones
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence.ranges import Range
from hotpatch.update import calls, chain
from hotpatch.update.drain import Drain
from hotpatch.update.moment import NotNow, at_quiescence
from hotpatch.update.recover import recover, remove_switched_off
from hotpatch.update.result import FunctionChange, PatchName, Result, Step
from hotpatch.update.session import Options, Session


def revert(process: Process, patch_id: str | None, options: Options) -> Result:
    """Take a patch out of a process, the newest where no id (or unique start of one) is given.

    Raises the errors of `hotpatch.errors`; the patch is then still applied.
    """
    process.lock()
    try:
        session = Session(process, options)
        recover(session)
        patch = find(process, patch_id)
        _check_state(process, patch)
        _switch_off(session, patch)
        session.refresh()
        _read_back(process, patch)
        _note_chain(session, patch)
        remove_switched_off(session)
        functions = tuple(
            FunctionChange(f.name, f.module, f"{f.new:#x}", f"{f.old:#x}")
            for f in patch.record.replaced
        )
        name = PatchName(patch.record.id, patch.record.name)
        return session.result("reverted", name, functions)
    finally:
        let_go_of_late_ones()
        process.unlock()


def find(process: Process, patch_id: str | None) -> ledger.Entry:
    """Return the applied patch that is meant; raises Refused where there is none, or several."""
    applied = [patch for patch in process.patches if patch.switch == ledger.ON]
    if not applied:
        raise Refused(f"process {process.pid} has no patch applied")
    if patch_id is None:
        return applied[-1]
    found = [p for p in applied if p.record.id.startswith(patch_id) or p.record.name == patch_id]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{p.record.id[:12]} ({p.record.name})" for p in applied)
    raise Refused(
        f"{'several patches' if found else 'no patch'} of process {process.pid} "
        f"{'start' if found else 'starts'} with {patch_id!r}",
        f"applied are {known}",
    )


def _switch_off(session: Session, patch: ledger.Entry) -> None:
    """Turn all functions of a patch back, when no thread is in its code; run its destructors."""
    memory = session.process.memory
    reverting = struct.pack("<I", ledger.REVERTING)
    off = struct.pack("<I", ledger.OFF)
    record = patch.record

    def act(hold: Hold) -> bool:
        if record.transfer and record.transfer.reverse:
            _carry_back(session, hold, patch)
        memory.write(patch.address + ledger.SWITCH_OFFSET, off)
        try:
            calls.run_each(session, hold, calls.Place(record), record.fini, "destructor")
        except (NotNow, RolledBack) as error:
            session.warnings.append(f"a destructor was not run to its end: {error.reason}")
        return True

    if record.fini or record.transfer:
        session.process.gadgets  # noqa: B018 - are looked for now, and not in the stop
    memory.write(patch.address + ledger.STATE_OFFSET, reverting)
    session.coroutines.recall(patch.address)
    try:
        with (
            _explained(session, record),
            Drain(session, patch.address, record, ledger.ON) as drain,
        ):
            at_quiescence(session, "commit", active(record), act, drain=drain)
    except BaseException:
        if session.process.alive():
            applied = struct.pack("<I", ledger.APPLIED)
            memory.write(patch.address + ledger.STATE_OFFSET, applied)
        raise


def _check_state(process: Process, patch: ledger.Entry) -> None:
    """Refuse to leave new state to old code."""
    record = patch.record
    if record.transfer is None:
        return
    if record.transfer.carried and not record.transfer.reverse:
        raise Refused(
            f"{record.name} has carried state over and has no HOTPATCH_REVERSE to take it back",
            "apply a patch on top that brings the state back; a patch whose state the old code can "
            "work with says so by an empty HOTPATCH_REVERSE",
        )
    later = [p for p in process.patches if p.switch == ledger.ON]
    for other in later[later.index(patch) + 1 :]:
        if other.record.transfer and other.record.transfer.carried:
            raise Refused(
                f"{other.record.name}, applied after {record.name}, has carried on with its state",
                f"revert {other.record.name} first",
            )


def _carry_back(session: Session, hold: Hold, patch: ledger.Entry) -> None:
    from hotpatch.update.job import Switch  # noqa: PLC0415 - most patches carry no state over
    from hotpatch.update.transfer import carry_over  # noqa: PLC0415

    assert patch.record.transfer is not None
    mappings = session.process.mappings
    header = next(mapping for mapping in mappings if mapping.start == patch.address)
    switch = patch.address + ledger.SWITCH_OFFSET
    carry_over(
        session,
        hold,
        patch.record,
        [Step("reverse", name, "", address) for name, address in patch.record.transfer.reverse],
        Switch(patch.address, header.end - header.start, switch, ledger.OFF),
    )


def _explained(session: Session, record: ledger.Record) -> contextlib.AbstractContextManager[None]:
    if record.transfer is None:
        return contextlib.nullcontext()
    from hotpatch.update.failure import Image, explained  # noqa: PLC0415

    start, size = record.regions[0]
    return explained(session, Image(None, 0, start, start + size))


def active(record: ledger.Record) -> tuple[Range, ...]:
    """Return all that must be quiet before a patch can be switched off: its code and gates."""
    gates = [Range(start, end, f.name) for f in record.replaced for start, end in f.decided]
    named = {start: f.name for f in record.replaced for start, _ in f.code}
    code = [
        Range(start - 1, start + size, _name(start, size, named)) for start, size in record.code
    ]
    return (*gates, *code)


def _name(start: int, size: int, named: dict[int, str]) -> str:
    inside = [name for address, name in named.items() if start <= address < start + size]
    return f"new code of {', '.join(inside[:3])}" if inside else "new code"


def _read_back(process: Process, patch: ledger.Entry) -> None:
    found = [p for p in process.patches if p.address == patch.address]
    if not found or found[0].switch != ledger.OFF:
        raise HotpatchError("the switch reads back differently after the revert")


def _note_chain(session: Session, patch: ledger.Entry) -> None:
    above = chain.above(session.process, patch)
    if above:
        names = ", ".join(entry.record.name for entry in above)
        session.warnings.append(
            f"{patch.record.name} is off; its memory stays until {names}, applied on top of it, "
            "is reverted"
        )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Unmap: a patch that is switched off and disarmed gives its memory back.

Nothing may refer to it any more: no return address, no register, no word of writable memory.
The memory is searched first while the target runs, to see whether it is worth while; what counts is
the search in a stop, in the same stop as the munmap. How much can be searched in a stop is limited;
a target with more keeps the patch's memory, and the result says so.

Death here leaves either the region, known by its header, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

from hotpatch.arch import syscalls
from hotpatch.errors import Busy
from hotpatch.linux import procfs
from hotpatch.linux.remote import Borrowed
from hotpatch.linux.threads import Hold
from hotpatch.process import ledger
from hotpatch.quiescence.ranges import Range, Ranges
from hotpatch.quiescence.references import Reference, search, searchable
from hotpatch.quiescence.stacks import StackMap
from hotpatch.update.borrow import suitable
from hotpatch.update.moment import NotNow, at_quiescence
from hotpatch.update.session import Session

_MOST_IN_STOP = 16 << 20


def unmap(session: Session, regions: Sequence[tuple[int, int]], name: str) -> str | None:
    """Unmap (address, size) regions, the last one first; return why not, None when done."""
    spans = [(address, address + size) for address, size in regions]
    ranges = [Range(start - 1, end, name) for start, end in spans]
    where = searchable(session.process.pid, spans)
    found = search(session.process.memory, where, Ranges(ranges))
    if found:
        return _kept(session, name, found)
    if where.size > _MOST_IN_STOP:
        return (
            f"{name} stays mapped: {where.size >> 20} MB of writable memory can't be searched for "
            "references to it in a stop"
        )
    _ = session.process.gadgets  # found before the stop, used in it
    try:
        left = at_quiescence(
            session, "unmap", ranges, lambda hold: _unmap(session, hold, spans, Ranges(ranges))
        )
    except Busy as busy:
        return f"{name} stays mapped: {busy.reason}"
    return _kept(session, name, left) if left else None


def _unmap(
    session: Session,
    hold: Hold,
    spans: list[tuple[int, int]],
    ranges: Ranges,
) -> list[Reference]:
    """Search again, and unmap where nothing is found; with all threads stopped."""
    process = session.process
    found = search(process.memory, searchable(process.pid, spans), ranges)
    if found:
        return found
    thread = suitable(session, hold, StackMap(process.pid, procfs.mappings(process.pid)))
    if thread is None:
        raise NotNow("no thread was in a place from which it can be borrowed")
    with Borrowed(thread, process.memory, process.gadgets) as borrowed:
        for start, end in reversed(spans):
            borrowed.syscall(syscalls.MUNMAP, start, end - start)
    return []


def _kept(session: Session, name: str, found: list[Reference]) -> str:
    first = found[0]
    where = session.process.symbolic(first.address) or _mapping_name(session, first.address)
    return (
        f"{name} stays mapped: {len(found)} word(s) of the target point into it, the first at "
        f"{first.address:#x} ({where}) to {first.target:#x}"
    )


def _mapping_name(session: Session, address: int) -> str:
    for mapping in session.process.mappings:
        if mapping.start <= address < mapping.end:
            return mapping.path or "anonymous memory"
    return "memory"


def present(session: Session, regions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return those of some regions that are there: the header tells."""
    ours = {m.start for m in session.process.mappings if ledger.is_ours(m)}
    return [region for region in regions if region[0] in ours]

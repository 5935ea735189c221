# SPDX-License-Identifier: GPL-2.0-or-later
"""Unmap: a patch that is switched off and disarmed gives its memory back.

Nothing may refer to it any more: no return address, no register, no word of memory, no handler of
a signal. The memory is searched while the target runs, to see whether it is worth while; what
counts is the search of a snapshot (`update.snapshot`), for which the target stands still about as
long as fork(2) takes. A target for which that is too long keeps the patch's memory, as
does one that can't make a snapshot, and the result says so: a revert never fails of it.

Small memories could be searched in the stop itself. It is not done, as it is no quicker: looking
for what is in memory takes as long as cloning it, up to some MB.

Death here leaves the region, known by its header, and perhaps a zombie, named by the header; or
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from hotpatch.arch import syscalls
from hotpatch.errors import Busy, Denied
from hotpatch.linux import procfs
from hotpatch.linux.remote import Borrowed
from hotpatch.linux.snapshot import Lost
from hotpatch.process import ledger
from hotpatch.quiescence import references
from hotpatch.quiescence.ranges import Range, Ranges
from hotpatch.quiescence.references import Reference, Span, Survey
from hotpatch.update import snapshot
from hotpatch.update.borrow import with_borrowed
from hotpatch.update.cloning import TooDear, expect_affordable
from hotpatch.update.moment import at_quiescence
from hotpatch.update.session import Session

_PATIENCE_S = 0.25
_TRIES = 3
_MOST_NS = 10_000_000  # tidying up is not worth a longer stop, unless --max-pause allows one
_MOST_NS_A_THREAD = 20_000  # about what stopping one costs anyway
_MOST_APART = 1 << 20
_MOST_SPACE = 1 << 40  # sanitizers map more


class _Kept(Exception):
    """The memory can't be given back; says why."""


def unmap(session: Session, regions: Sequence[tuple[int, int]], name: str) -> str | None:
    """Unmap (address, size) regions, the last one first; return why not, None when done."""
    if not regions:
        return None
    spans = [(address, address + size) for address, size in regions]
    try:
        with session.at_most(_PATIENCE_S):
            _unmap(session, spans, name)
            return None
    except _Kept as kept:
        why = str(kept)
    except (Busy, Denied) as error:
        why = error.reason
    session.kept.add(spans[0][0])
    return f"{name} stays mapped: {why}"


def present(session: Session, regions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return those of some regions that are there: the header tells."""
    ours = {m.start for m in session.process.mappings if ledger.is_ours(m)}
    return [region for region in regions if region[0] in ours]


def _unmap(session: Session, spans: list[Span], name: str) -> None:
    """Unmap, or raise _Kept, Busy or Denied."""
    ranges = [Range(start - 1, end, name) for start, end in spans]
    _ = session.process.gadgets  # found before the stop, used in it
    at = _site(session, spans[0][0])
    if at is None:
        at_quiescence(session, "unmap", ranges, lambda _: True, data=True)
        with_borrowed(session, "unmap", partial(_munmap, spans))
        return
    if not snapshot.reap_leftover(session, at.header):
        raise _Kept("the snapshot that an earlier hotpatch took of the target has not ended yet")
    pointers = references.pointers(spans)
    for _ in range(_TRIES):
        survey = _survey(session, spans)
        _expect_none(session, _search_running(session, survey, pointers))
        take = partial(snapshot.take, session, at, survey, pointers)
        try:
            taken = at_quiescence(session, "unmap", ranges, take, data=True)
            found = _look_through(session, at, taken, survey, pointers, spans)
        finally:
            snapshot.let_end(session, at.header)
        _finish(session, at, spans if found == [] else [])
        if isinstance(taken, str):
            raise _Kept(taken)
        if found is not None:
            _expect_none(session, found)
            return
    raise _Kept("the target's memory map changed, or somebody ended the snapshot, at every try")


def _site(session: Session, address: int) -> snapshot.Site | None:
    """Return where to work: a patch that is off needs its call area no more, a remnant no gates.

    A region whose patcher died before it had a header has no place for that; but nothing in the
    target can have learnt of it, only the thread that mapped it may still be there.
    """
    process = session.process
    ours = (m for m in process.mappings if m.start == address and ledger.is_ours(m))
    header = next(ours, None)
    if header is None:
        return None
    calls = [p.record.call[0] for p in process.patches if p.address == address]
    return snapshot.site(address, header.end - address, calls[0] if calls else header.end)


def _survey(session: Session, spans: list[Span]) -> Survey:
    """Look at the memory map; raises _Kept where the memory can't be searched, or not in time."""
    try:
        survey = references.survey(session.process.pid, spans)
    except OSError as error:
        session.process.check_alive()
        raise _Kept(f"its memory map can't be read ({error.strerror})") from None
    if survey.device is not None:
        raise _Kept(f"the target has mapped memory of a device ({survey.device.path})")
    if survey.space > _MOST_SPACE:
        raise _Kept(f"{survey.space >> 40} TB of address space are too much to be searched")
    apart = sum(size for _, size in survey.pieces_apart)
    if apart > _MOST_APART:
        largest = max(survey.apart, key=lambda area: area.end - area.start)
        raise _Kept(
            f"{apart >> 20} MB of shared memory and the like can't be searched in a stop "
            f"(of {largest.path or 'no file'} and other mappings)"
        )
    limit_ns = session.max_pause_ns
    if limit_ns is None:
        limit_ns = _MOST_NS + procfs.thread_count(session.process.pid) * _MOST_NS_A_THREAD
    try:
        expect_affordable(session.process.pid, survey, limit_ns)
    except TooDear as error:
        raise _Kept(str(error)) from None
    return survey


def _search_running(session: Session, survey: Survey, pointers: Ranges) -> list[Reference]:
    """Search the memory of the running target, but for what may be dead memory of stacks."""
    process = session.process
    with session.looks() as looks:
        stacks = [seen.sleep.rsp for seen in looks.values()]
    all_asleep = len(looks) == len(procfs.threads(process.pid))
    areas = [
        area
        for area in survey.private
        if area.path != "[stack]"
        and (area.path or all_asleep)
        and not any(area.start <= rsp < area.end for rsp in stacks)
    ]
    try:
        return references.search(process.memory, areas, pointers)
    except OSError:  # its pages can't be listed
        process.check_alive()
        return []


def _look_through(
    session: Session,
    at: snapshot.Site,
    taken: snapshot.Taken | str,
    survey: Survey,
    pointers: Ranges,
    spans: list[Span],
) -> list[Reference] | None:
    """Return the references in a snapshot, None where there is none or it doesn't tell."""
    if isinstance(taken, str):
        return None
    try:
        return snapshot.look_through(session, at, taken, survey, pointers, spans)
    except (snapshot.Changed, Lost):
        return None


def _finish(session: Session, at: snapshot.Site, spans: list[Span]) -> None:
    """Reap what is left of the snapshot and unmap some (start, end); raises _Kept."""

    def act(borrowed: Borrowed) -> None:
        if not snapshot.reap(session, at.header, borrowed):
            raise _Kept("the snapshot that was taken of the target has not ended yet")
        _munmap(spans, borrowed)

    if spans or snapshot.has_child(session, at.header):
        with_borrowed(session, "unmap", act, snapshot.REAP)


def _munmap(spans: list[Span], borrowed: Borrowed) -> None:
    """Unmap, the last one first: as long as the first is there, the next patcher knows of all."""
    for start, end in reversed(spans):
        result = borrowed.syscall(syscalls.MUNMAP, start, end - start)
        if result:
            raise _Kept(f"munmap failed ({os.strerror(-result)})")


def _expect_none(session: Session, found: Sequence[Reference]) -> None:
    if not found:
        return
    first = found[0]
    where = first.holder or f"at {first.address:#x} ({_name(session, first.address)})"
    raise _Kept(
        f"{len(found)} word(s) of the target point into it, the first, {where}, to "
        f"{first.target:#x}"
    )


def _name(session: Session, address: int) -> str:
    symbolic = session.process.symbolic(address)
    if symbolic is not None:
        return str(symbolic)
    inside = (m.path for m in session.process.mappings if m.start <= address < m.end)
    return next(inside, "") or "anonymous memory"

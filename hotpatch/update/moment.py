# SPDX-License-Identifier: GPL-2.0-or-later
"""Doing something at a quiescent point.

Every change of code that runs is made here: all threads stopped, their stacks scanned, and only
when none is in the way the change is made, in the same stop. Otherwise they go on at once, and
it is tried again; but not as long as one that was in the way sleeps the same sleep, which is seen
without stopping it. A thread that will be in the way for ever is not waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from hotpatch.arch import syscalls
from hotpatch.errors import Blocker
from hotpatch.linux import procfs
from hotpatch.linux.restart import Looks
from hotpatch.linux.threads import Hold, Unstoppable
from hotpatch.quiescence.ranges import Range, Ranges
from hotpatch.quiescence.stacks import Scanner, StackMap
from hotpatch.quiescence.verdict import Blocked, unjudged
from hotpatch.update.session import Session
from hotpatch.update.waiting import Waiting

if TYPE_CHECKING:
    from hotpatch.update.drain import Drain

T = TypeVar("T")


class NotNow(Exception):
    """Raised by an action that has changed nothing and wants another moment."""

    def __init__(self, reason: str) -> None:
        """Keep why, for the message when there is no other moment."""
        super().__init__(reason)
        self.reason = reason


def at_quiescence(
    session: Session,
    phase: str,
    ranges: Iterable[Range],
    action: Callable[[Hold], T],
    data: bool = False,
    drain: Drain | None = None,
) -> T:
    """Run `action` with all threads stopped and none of them inside `ranges`.

    `drain` is what may be done to come to such a moment. With `data`, no word of a stack or
    register may point there at all, whether a thread returns through it or not. Raises Busy, with
    the blocking threads, when there was no such moment until the timeout, or a thread will
    never leave; whatever `action` raises; Gone and Denied.
    """
    forbidden = Ranges(ranges)
    waiting = Waiting(session, phase, forbidden, drain)
    while True:
        result = _attempt(session, phase, waiting, action, data)
        if result is not None:
            return result[0]
        waiting.wait()


def _attempt(
    session: Session, phase: str, waiting: Waiting, action: Callable[[Hold], T], data: bool
) -> tuple[T] | None:
    """Try once; return the action's result, None where something was in the way."""
    waiting.count()
    with session.looks() as looks:
        mappings = procfs.mappings(session.process.pid)
        session.stacks = StackMap(session.process.pid, mappings)
        session.judge.follow(mappings)
        if not data and _asleep_inside(session, looks, waiting):
            return None
        kind = "" if data else phase
        session.coroutines.prepare(kind, waiting.forbidden, mappings, looks)
        return _attempt_after(session, looks, phase, waiting, action, data)


def _asleep_inside(session: Session, looks: Looks, waiting: Waiting) -> bool:
    """Say whether a stop would be in vain, as a thread sleeps in the way.

    Not while callers are made to wait: some of those that sleep then have to be let pass.
    """
    if waiting.drain and waiting.drain.running:
        return False
    sleeps = {tid: seen.sleep for tid, seen in looks.items()}
    asleep = session.judge.glance(sleeps, session.stacks, waiting.forbidden)
    if asleep:
        tell = partial(_describe, session, waiting.forbidden, looks)
        waiting.blocked(asleep, tell, {b.tid: sleeps[b.tid].rsp for b in asleep})
    return bool(asleep)


def _attempt_after(
    session: Session,
    looks: Looks,
    phase: str,
    waiting: Waiting,
    action: Callable[[Hold], T],
    data: bool,
) -> tuple[T] | None:
    process = session.process
    in_vfork = _in_vfork(session, looks)
    if in_vfork is not None:
        waiting.obstructed(in_vfork)
        return None
    forbidden, drain = waiting.forbidden, waiting.drain
    stacks, judge = session.stacks, session.judge
    scanner = Scanner(process.memory, stacks, forbidden)
    kind = "" if data else phase
    try:
        with session.hold(phase, looks, observer=scanner.add) as hold:
            threads = dict(hold.threads)
            hits = scanner.hits
            if drain is not None:
                hits = [hit for hit in hits if not drain.excuses(threads[hit.tid])]
            blocked = unjudged(hits) if data else judge.judge(hits, threads, stacks, forbidden)
            if drain is not None:
                drain.look(threads, blocked, forbidden)
            if not blocked and (
                session.coroutines.in_the_way(kind, hold, scanner, waiting)
                or _is_too_long(session, hold, waiting)
            ):
                return None
            if not blocked:
                result = action(hold)
                if drain is not None:
                    drain.release()
                return (result,)
    except Unstoppable as error:
        slow = session.max_pause_ns is not None and error.state != "D"
        state = f"(state {error.state})"
        waiting.obstructed(
            Blocker(0, "--max-pause", (), "") if slow else Blocker(error.tid, state, (), "")
        )
        return None
    except NotNow as error:
        waiting.obstructed(Blocker(0, error.reason, (), ""))
        return None
    judge.learn(threads[thread.tid] for thread in blocked)
    # One that was not unwound yet may have only a stale word on its stack: the next stop will show.
    sure = [thread.tid for thread in blocked if thread.frames or data]
    pointers = {tid: threads[tid].registers.rsp for tid in sure}
    waiting.blocked(blocked, partial(_describe, session, forbidden, looks), pointers)
    return None


def _is_too_long(session: Session, hold: Hold, waiting: Waiting) -> bool:
    """Say whether there is no time left for a change in this stop; note it."""
    if not session.too_long(hold):
        return False
    waiting.obstructed(Blocker(0, "--max-pause", (), ""))
    return True


def _in_vfork(session: Session, looks: Looks) -> Blocker | None:
    """Return a thread that can't be stopped as it waits for a child of vfork(2)."""
    for tid, seen in looks.items():
        waits = syscalls.waits_for_vfork(seen.sleep.number, seen.sleep.arguments)
        if waits and procfs.state(session.process.pid, tid) == "D":
            return Blocker(tid, "(vfork)", (), "vfork")
    return None


def _describe(session: Session, forbidden: Ranges, looks: Looks, thread: Blocked) -> Blocker:
    """Return a blocking thread with the function that blocks, and what was found of it."""
    process = session.process
    ranges = [forbidden.find(address) for address in thread.addresses]
    name = next((r.function for r in ranges if r is not None), "?")
    if thread.frames:
        frames = tuple(str(session.places.of(frame)) for frame in thread.frames)
    else:
        frames = tuple(str(process.symbolic(a) or f"{a:#x}") for a in thread.addresses)
    seen = looks.get(thread.tid)
    call = process.call_name(seen.sleep) if seen else "running"
    return Blocker(thread.tid, name, frames, call)

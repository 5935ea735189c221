# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking a snapshot of the target, to search it for references to a patch.

In one stop of all threads their stacks and registers are scanned, and a borrowed thread makes the
snapshot: a child that is never let run. What a child doesn't get is copied in the same stop. All of
that is searched later: a reference can only be made by copying one, and if there was none
at that moment, there never will be.

Death of the patcher lets the child go, and it ends by itself. It is then a zombie of the target,
which no ordinary wait(2) of the target sees. Its pid stands in the patch's header since before it
could run, and the next patcher reaps it: that pid, if it is a zombie, a child of the target, sends
no signal at its end and was made when the header says. All four together are true of no child
that the program made itself: not of one that got the same pid later, either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from hotpatch.arch import syscalls
from hotpatch.arch.registers import signed
from hotpatch.errors import Denied, Gone
from hotpatch.linux import procfs, seccomp
from hotpatch.linux.memory import Buffer
from hotpatch.linux.remote import Borrowed, Crashed, Overdue, Program
from hotpatch.linux.snapshot import Lost, Snapshot, end
from hotpatch.linux.threads import Hold, Thread
from hotpatch.process import ledger
from hotpatch.quiescence import references
from hotpatch.quiescence.dead import DeadStacks
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.references import Reference, Span, Survey
from hotpatch.update.borrow import suitable, with_borrowed
from hotpatch.update.moment import NotNow
from hotpatch.update.programs import program
from hotpatch.update.session import Session

_CLONE_FLAGS = 0x102400  # as in snapshot.S
_CHILD = struct.Struct("<I4xQ")  # ledger: the child's pid, and since when it may have been made
_SIGNALS, _ACTION_SIZE = 64, 32
_BELOW_FRAME = 4096  # where the actions of signals go: unused stack of the borrowed thread
_WCLONE = 0x80000000
_WAIT_OPTIONS = _WCLONE | os.WNOHANG
_BORN_WITHIN_S = 10
_NAP_S, _NAPS = 0.002, 100
REAP = (seccomp.Call(syscalls.WAIT4, (1, 0, _WAIT_OPTIONS, 0)),)
TAKE = (
    *REAP,
    seccomp.Call(syscalls.RT_SIGACTION, (1, 0, 4096, 8)),
    seccomp.Call(syscalls.MPROTECT, (0, 4096, 3)),
    seccomp.Call(syscalls.CLONE, (_CLONE_FLAGS, 0, 4096)),
    seccomp.Call(syscalls.EXIT_GROUP, (0,)),
)


class Changed(Exception):
    """The memory map changed between the survey and the stop: begin anew."""


class Site(NamedTuple):
    """The patch whose header is used, with the program that takes the snapshot and its code.

    The code lies where nothing of the patch leads any more.
    """

    header: int
    header_size: int
    program: Program
    code: bytes


class Taken(NamedTuple):
    """What was got in one stop.

    `threads` are as they were stopped, `apart` is the content of the survey's areas apart, one
    behind the other, `actions` where the snapshot has the actions of signals, `space` the size of
    the target's address space.
    """

    threads: tuple[Thread, ...]
    apart: Buffer
    actions: int
    space: int


def site(header: int, header_size: int, code: int) -> Site:
    """Prepare the work on a patch: its header, and free room for 256 bytes of code."""
    return Site(header, header_size, *program("snapshot.S", code, uses_fpu=False))


def take(session: Session, at: Site, survey: Survey, pointers: Ranges, hold: Hold) -> Taken | str:
    """Take a snapshot in a stop of all threads; return why not, where the target can't.

    Either way there may be a child then, which `let_end` ends. Raises NotNow, Gone.
    """
    process = session.process
    threads = tuple(hold.threads.values())
    if references.in_vectors(threads, pointers):
        raise NotNow("a vector register points into it")
    try:
        thread = suitable(session, hold, session.stacks, calls=TAKE)
    except Denied as denied:
        return denied.reason
    if thread is None:
        raise NotNow("no thread was in a place from which it can be borrowed")
    apart = Buffer(sum(size for _, size in survey.pieces_apart), pointers.lane)
    process.memory.copy(survey.pieces_apart, apart)
    space = procfs.address_space(process.pid)
    made = clone(session, at, thread)
    return made if isinstance(made, str) else Taken(threads, apart, made, space)


def clone(session: Session, at: Site, thread: Thread) -> int | str:
    """Have a held thread make the child, which is then stopped and named by the header.

    Return where it has the actions of signals; or why the target can't make one.
    """
    process = session.process
    with Borrowed(thread, process.memory, process.gadgets) as borrowed:
        actions = borrowed.way_home - _BELOW_FRAME
        failed = _clone(session, at, borrowed, actions)
    return f"the target can't make a child ({os.strerror(-failed)})" if failed else actions


def _clone(session: Session, at: Site, borrowed: Borrowed, actions: int) -> int:
    """Run the program; return 0, or a negative error number."""
    memory = session.process.memory
    memory.write(at.program.start, at.code)
    memory.write(at.header + ledger.CHILD_OFFSET, _CHILD.pack(0, procfs.clock_ticks()))
    try:
        registers = borrowed.run(at.program, r12=at.header, r14=actions, r15=at.header_size)
    except (Crashed, Overdue):
        return -errno.ETIMEDOUT
    return min(0, signed(registers.rbx))


def look_through(
    session: Session,
    at: Site,
    taken: Taken,
    survey: Survey,
    pointers: Ranges,
    own: Sequence[Span],
) -> list[Reference]:
    """Return all references in the snapshot that was taken; raises Changed and Lost."""
    child = _child(session, at.header)
    if child is None:
        raise Lost
    with Snapshot(child.pid) as snapshot:
        try:
            found = _look_through(session, snapshot, taken, survey, pointers, own)
        except OSError as error:
            raise Lost from error
        if not snapshot.is_whole():
            raise Lost
    return found


def let_end(session: Session, header: int) -> None:
    """Let the child end that a header names, if there is one."""
    with contextlib.suppress(Gone):
        child = _child(session, header)
        if child is not None:
            end(child.pid)


def child_pid(session: Session, header: int) -> int:
    """Return the pid of the child that a header names; raises Lost."""
    child = _child(session, header)
    if child is None:
        raise Lost
    return child.pid


def _child(session: Session, header: int) -> procfs.Child | None:
    """Return the child that a header names, which is one of ours."""
    memory = session.process.memory
    inner, born = _CHILD.unpack(memory.read(header + ledger.CHILD_OFFSET, _CHILD.size))
    child = procfs.child(session.process.pid, inner) if inner else None
    ticks = os.sysconf("SC_CLK_TCK")
    if child is None or child.exit_signal or not 0 <= child.born - born <= _BORN_WITHIN_S * ticks:
        return None
    return child


def _look_through(
    session: Session,
    snapshot: Snapshot,
    taken: Taken,
    survey: Survey,
    pointers: Ranges,
    own: Sequence[Span],
) -> list[Reference]:
    inherited = references.survey(snapshot.pid, own)
    missing = taken.space - procfs.address_space(snapshot.pid)
    if missing != survey.not_inherited or not survey.covers_apart(inherited):
        raise Changed
    dead = DeadStacks(session.process.pid, taken.threads, snapshot.memory)
    found = references.search(snapshot.memory, inherited.private, pointers)
    return [
        *(reference for reference in found if not dead.cover(reference.address)),
        *references.search_copy(survey.pieces_apart, taken.apart, pointers),
        *_handlers(snapshot, taken.actions, pointers),
    ]


def _handlers(snapshot: Snapshot, actions: int, pointers: Ranges) -> list[Reference]:
    """Return the handlers of signals that lie in the patch; struct kernel_sigaction."""
    found = []
    table = snapshot.memory.read(actions, _SIGNALS * _ACTION_SIZE)
    for number, action in enumerate(struct.iter_unpack("<QQQQ", table), 1):
        for word in (action[0], action[2]):  # sa_handler, sa_restorer
            if pointers.find(word) is not None:
                found.append(Reference(0, word, f"the handler of signal {number}"))
    return found


def has_child(session: Session, header: int) -> bool:
    """Say whether a header names a child that has to be reaped."""
    return any(session.process.read(header + ledger.CHILD_OFFSET, 4))


def reap(session: Session, header: int, borrowed: Borrowed) -> bool:
    """Have a borrowed thread reap the child that a header names; return False if it still lives."""
    memory = session.process.memory
    inner, _ = _CHILD.unpack(memory.read(header + ledger.CHILD_OFFSET, _CHILD.size))
    if inner and borrowed.syscall(syscalls.WAIT4, inner, 0, _WAIT_OPTIONS, 0) == 0:
        return False
    memory.write(header + ledger.CHILD_OFFSET, bytes(_CHILD.size))
    return True


def reap_leftover(session: Session, header: int, phase: str = "unmap") -> bool:
    """Reap the child that an earlier snapshot left, if it did; return False if it still lives.

    It may be one of ours, which was too slow to end: its parent can't reap it before its tracer.
    """
    for _ in range(_NAPS if has_child(session, header) else 0):
        child = _child(session, header)
        if child is None:
            session.process.memory.write(header + ledger.CHILD_OFFSET, bytes(_CHILD.size))
            return True
        end(child.pid)
        if procfs.state(child.pid, child.pid) in "ZX":
            return with_borrowed(session, phase, partial(reap, session, header), REAP)
        time.sleep(_NAP_S)
    return not has_child(session, header)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Choosing a thread that may be borrowed, and borrowing it.

It has to be on its own stack, with room for a signal frame: a coroutine's or a goroutine's may be
too small for one, and what lies below it is somebody else's. It must not be inside a restartable
sequence, nor under a seccomp filter that forbids what it is to do. A thread asleep in a call that
loses nothing by being repeated is best: should the patcher die while it is away, it starts that
call anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hotpatch.arch import registers, syscalls
from hotpatch.errors import Gone
from hotpatch.linux import procfs, remote, seccomp
from hotpatch.linux.restart import Looks
from hotpatch.linux.threads import Hold, Thread, Unstoppable
from hotpatch.quiescence.stacks import StackMap
from hotpatch.update.session import TOO_LONG, Session, no_time

T = TypeVar("T")

_ROOM = 24 << 10  # a signal frame with AMX state has 11 KiB
_PROT_READ, _PROT_RW, _PROT_RX = 1, 3, 5
CALLS = (
    seccomp.Call(syscalls.MMAP, (0, 4096, _PROT_RX, 0x104022, registers.NO_SYSCALL, 0)),
    seccomp.Call(syscalls.MMAP, (0, 4096, _PROT_READ, 0x12, 3, 0)),
    seccomp.Call(syscalls.MPROTECT, (0, 4096, _PROT_READ)),
    seccomp.Call(syscalls.MPROTECT, (0, 4096, _PROT_RW)),
    seccomp.Call(syscalls.MUNMAP, (0, 4096)),
    seccomp.Call(syscalls.MEMFD_CREATE, (0, 1)),
    seccomp.Call(syscalls.FTRUNCATE, (3, 4096)),
    seccomp.Call(syscalls.CLOSE, (3,)),
    seccomp.Call(syscalls.RT_SIGTIMEDWAIT, (4096, 0, 4096, 8)),
    seccomp.Call(syscalls.RT_SIGRETURN, ()),
)


def with_borrowed(
    session: Session,
    phase: str,
    action: Callable[[remote.Borrowed], T],
    calls: Sequence[seccomp.Call] = (),
) -> T:
    """Stop one suitable thread and run `action` with it; the other threads run on.

    `calls` are system calls that it has to be allowed besides those of `CALLS`. Raises Busy when
    no thread was suitable until the timeout, Denied, Gone, Refused.
    """
    gadgets = session.process.gadgets
    tries = 0
    reason = "no thread was in a place from which it can be borrowed"
    while True:
        tries += 1
        stacks = StackMap(session.process.pid, procfs.mappings(session.process.pid))
        with session.looks() as looks:
            for tid in candidates(session.process.pid, looks):
                try:
                    with session.hold(phase, looks, tid) as hold:
                        thread = suitable(session, hold, stacks, calls=calls)
                        if thread is not None:
                            with remote.Borrowed(thread, session.process.memory, gadgets) as it:
                                return action(it)
                except Unstoppable:
                    if session.max_pause_ns is not None:
                        reason = TOO_LONG
        if not session.wait_before_retry(phase, tries, ()):
            raise no_time(reason, session)


def candidates(pid: int, looks: Looks) -> list[int]:
    """Return the threads of a process, those first that are best borrowed."""

    def cost(tid: int) -> int:
        seen = looks.get(tid)
        if seen is None:
            return 2
        number = seen.sleep.number
        if syscalls.waits_for_vfork(number, seen.sleep.arguments):
            return 3
        return 0 if number in syscalls.REPEATABLE else 1

    return sorted(procfs.threads(pid), key=cost)


def suitable(
    session: Session,
    hold: Hold,
    stacks: StackMap,
    condition: Callable[[Thread], bool] | None = None,
    calls: Sequence[seccomp.Call] = (),
) -> Thread | None:
    """Return a held thread that can be borrowed, None where there is none now.

    `condition` is what the caller wants besides, `calls` are system calls that it is to make
    besides those of `CALLS`. Raises Denied where seccomp forbids one.
    """
    if not hold.threads and not session.process.alive():
        raise Gone(f"process {session.process.pid} ended")
    for thread in hold.threads.values():
        if not _has_room(thread, stacks) or (condition is not None and not condition(thread)):
            continue
        if remote.in_critical_section(thread, session.process.memory):
            continue
        ip = session.process.gadgets.syscall_return
        seccomp.check(session.process.pid, thread, (*CALLS, *calls), ip)
        return thread
    return None


def _has_room(thread: Thread, stacks: StackMap) -> bool:
    state = thread.registers
    if state.cs & 0xFFFF != registers.USER_CODE_SEGMENT or not stacks.is_home(thread):
        return False
    extent = stacks.extent(state.rsp, state.fs_base)
    return extent is not None and state.rsp - extent[0] > _ROOM

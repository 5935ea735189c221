# SPDX-License-Identifier: GPL-2.0-or-later
"""System call numbers of x86-64 that hotpatch makes in a target or must know about.

The numbers are those of arch/x86/entry/syscalls/syscall_64.tbl. Names for people come from
python-ptrace's table, on demand.
"""

from __future__ import annotations

from typing import NamedTuple

MMAP = 9
MPROTECT = 10
MUNMAP = 11
BRK = 12
RT_SIGACTION = 13
RT_SIGPROCMASK = 14
RT_SIGRETURN = 15
PREAD64 = 17
SCHED_YIELD = 24
MREMAP = 25
MADVISE = 28
NANOSLEEP = 35
GETPID = 39
CLONE = 56
FORK = 57
VFORK = 58
EXECVE = 59
EXIT = 60
WAIT4 = 61
KILL = 62
GETTIMEOFDAY = 96
PTRACE = 101
FTRUNCATE = 77
CLOSE = 3
RT_SIGTIMEDWAIT = 128
SIGALTSTACK = 131
GETTID = 186
TIME = 201
FUTEX = 202
RESTART_SYSCALL = 219
TIMER_CREATE = 222
TIMER_SETTIME = 223
TIMER_DELETE = 226
CLOCK_GETTIME = 228
CLOCK_NANOSLEEP = 230
EXIT_GROUP = 231
TGKILL = 234
GETCPU = 309
GETRANDOM = 318
MEMFD_CREATE = 319
EXECVEAT = 322
CLONE3 = 435


class Timeout(NamedTuple):
    """Where a call that returns -EINTR after a stop keeps its relative timeout."""

    register: str
    unit: str  # "ms": an int in the register; "timespec": a pointer to one


NO_TIMEOUT = Timeout("", "")

# Calls that return -EINTR, not a restart code, when a stop interrupts them (signal(7),
# "Interruption of system calls and library functions by stop signals", and the sources named).
# Read and the socket calls do so where the socket has SO_RCVTIMEO or SO_SNDTIMEO
# (sock_intr_errno): the kernel starts that time anew.
INTERRUPTED_BY_STOP = {
    232: Timeout("r10", "ms"),  # epoll_wait: fs/eventpoll.c, ep_poll
    281: Timeout("r10", "ms"),  # epoll_pwait
    441: Timeout("r10", "timespec"),  # epoll_pwait2
    128: Timeout("rdx", "timespec"),  # rt_sigtimedwait: kernel/signal.c, do_sigtimedwait
    220: Timeout("r10", "timespec"),  # semtimedop: ipc/sem.c, __do_semtimedop
    65: NO_TIMEOUT,  # semop
    208: Timeout("r8", "timespec"),  # io_getevents: fs/aio.c
    333: Timeout("r8", "timespec"),  # io_pgetevents
    426: NO_TIMEOUT,  # io_uring_enter: io_cqring_wait
    **dict.fromkeys((0, 1, 19, 20), NO_TIMEOUT),  # read, write, readv, writev
    **dict.fromkeys((42, 43, 44, 45, 46, 47, 288, 299, 307), NO_TIMEOUT),  # connect ... sendmmsg
}

# Blocking calls in which a thread waits for the world, not for a lock of the C library.
WAITING = frozenset(
    {
        0, 1, 7, 23, 34, 35, 43, 45, 47, 61, 65, 70, 128, 130, 202, 208, 220, 230, 232, 247, 270,
        271, 281, 288, 299, 426, 441,
    }
)  # fmt: skip

# Those of them that start over without loss: no timeout that would count from the beginning.
REPEATABLE = frozenset({0, 43, 45, 47, 61, 202, 247, 288})


def name(number: int) -> str:
    """Return the name of a system call, from python-ptrace's table."""
    from ptrace.syscall.linux.x86_64 import SYSCALL_NAMES  # noqa: PLC0415

    return str(SYSCALL_NAMES.get(number, f"syscall {number}"))


def number_before(code: bytes) -> int | None:
    """Return the number that code loads right before it makes a system call, which is its end.

    That is `mov eax, number; syscall`, as C libraries have it. It tells what a call was that the
    kernel goes on with as restart_syscall(2).
    """
    if len(code) >= 7 and code[-7] == 0xB8 and code.endswith(b"\x0f\x05"):
        return int.from_bytes(code[-6:-2], "little")
    return None


def waits_for_vfork(number: int, arguments: tuple[int, ...]) -> bool:
    """Say whether a sleeping call is one that waits for the child to call exec or exit.

    clone3 keeps its flags in memory, so it is taken for one.
    """
    return number in (58, 435) or (number == 56 and bool(arguments[0] & 0x4000))  # CLONE_VFORK

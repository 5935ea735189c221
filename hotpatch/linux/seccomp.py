# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a thread's seccomp filters let it make the system calls that we want of it.

A filter may kill the process for a call, and would do so after our death as well, so it is asked
beforehand: its classic BPF program is read from the kernel and run here, on the `struct
seccomp_data` of each call (Documentation/userspace-api/seccomp_filter.rst; the instructions are
those of net/core/filter.c, as far as seccomp_check_filter lets them pass).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hotpatch.errors import Denied
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.threads import Thread

_AUDIT_ARCH_X86_64 = 0xC000003E
_ALLOW, _LOG = 0x7FFF0000, 0x7FFC0000
_ACTION_FULL = 0xFFFF0000
_WORD = 0xFFFFFFFF


class Call(NamedTuple):
    """A system call by number and arguments."""

    number: int
    arguments: tuple[int, ...]


def check(pid: int, thread: Thread, calls: Iterable[Call], ip: int) -> None:
    """Raise Denied unless every call made at `ip` by a stopped thread would be allowed."""
    mode = _mode(pid, thread)
    if mode == "0":
        return
    if mode == "1":
        raise _denied(pid, "is in strict seccomp mode")
    for program in _programs(pid, thread.tid):
        for call in calls:
            arguments = call.arguments + (0,) * (6 - len(call.arguments))
            data = struct.pack("<iIQ6Q", call.number, _AUDIT_ARCH_X86_64, ip, *arguments)
            if run(program, data) & _ACTION_FULL not in (_ALLOW, _LOG):
                raise _denied(pid, f"has a seccomp filter that forbids {_name(call.number)}")


def _mode(pid: int, thread: Thread) -> str:
    """Return "0" for no seccomp, "1" for the strict mode, "2" for filters.

    PTRACE_SECCOMP_GET_FILTER answers EINVAL where there are no filters. That may be strict mode, in
    which a thread can only be outside of system calls, or in read or write: only for these
    is the slower /proc/PID/status looked at.
    """
    try:
        ptrace.seccomp_filter(thread.tid, 0)
    except OSError as error:
        if error.errno == errno.EINVAL and thread.registers.syscall not in (None, 0, 1):
            return "0"
        return procfs.seccomp_mode(pid, thread.tid)
    return "2"


def _programs(pid: int, tid: int) -> Iterable[bytes]:
    index = 0
    while True:
        try:
            program = ptrace.seccomp_filter(tid, index)
        except OSError as error:
            raise _denied(
                pid, f"has a seccomp filter that can't be read ({error.strerror})"
            ) from None
        if program is None:
            return
        yield program
        index += 1


def _denied(pid: int, what: str) -> Denied:
    return Denied(
        f"process {pid} {what}",
        "mmap, mprotect, munmap, memfd_create, ftruncate, close, rt_sigtimedwait and rt_sigreturn "
        "have to be allowed, and hotpatch needs CAP_SYS_ADMIN to see that they are",
        cause="seccomp",
    )


def _name(number: int) -> str:
    from hotpatch.arch import syscalls  # noqa: PLC0415 - names are for messages only

    return syscalls.name(number)


_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x30: lambda a, b: a // b if b else 0,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << b if b < 32 else 0,
    0x70: lambda a, b: a >> b,
    0x80: lambda a, _: -a,
    0x90: lambda a, b: a % b if b else 0,
    0xA0: lambda a, b: a ^ b,
}
_JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
}


def run(program: bytes, data: bytes) -> int:
    """Return what a classic BPF program answers for `data`; 0 (kill) where it is malformed."""
    instructions = list(struct.iter_unpack("<HBBI", program))
    memory = [0] * 16
    a = x = at = 0
    while at < len(instructions):
        code, true, false, k = instructions[at]
        at += 1
        kind = code & 0x07
        source = x if code & 0x08 else k
        if kind == 0x05:  # BPF_JMP; always forward
            if code & 0xF0 == 0:
                at += k
            else:
                at += true if _JUMPS[code & 0xF0](a, source) else false
        elif kind == 0x04:  # BPF_ALU
            a = _ALU[code & 0xF0](a, source) & _WORD
        elif kind == 0x06:  # BPF_RET
            return a if code & 0x18 == 0x10 else k
        elif kind == 0x07:  # BPF_MISC: TAX, TXA
            a, x = (x, x) if code & 0x80 else (a, a)
        elif kind == 0x02:
            memory[k] = a
        elif kind == 0x03:
            memory[k] = x
        else:  # BPF_LD into a, BPF_LDX into x
            value = _load(code & 0xE0, k, memory, data)
            a, x = (value, x) if kind == 0x00 else (a, value)
    return 0


def _load(mode: int, k: int, memory: list[int], data: bytes) -> int:
    if mode == 0x20:  # BPF_ABS
        return int.from_bytes(data[k : k + 4], "little")
    if mode == 0x60:  # BPF_MEM
        return memory[k]
    if mode == 0x80:  # BPF_LEN
        return len(data)
    return k  # BPF_IMM

# SPDX-License-Identifier: GPL-2.0-or-later
"""The ptrace requests that are safe for the target, and the stops they lead to.

Death of the tracer must harm nobody, so there is no PTRACE_ATTACH, no single-step, no
PTRACE_O_EXITKILL and no breakpoint here: see ptrace(2) and DESIGN.md, P2. All requests of one
target have to come from one thread: the kernel takes the calling thread for the tracer.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

from hotpatch.arch.registers import Registers

CONT = 7
GETREGS = 12
SETREGS = 13
DETACH = 17
SYSCALL = 24
GETSIGINFO = 0x4202
GETREGSET = 0x4204
SETREGSET = 0x4205
SEIZE = 0x4206
INTERRUPT = 0x4207
GETSIGMASK = 0x420A
SETSIGMASK = 0x420B
LISTEN = 0x4208
SECCOMP_GET_FILTER = 0x420C
GET_RSEQ_CONFIGURATION = 0x420F

SETOPTIONS = 0x4200

O_TRACESYSGOOD = 1
O_TRACECLONE = 1 << 3
O_TRACEEXEC = 1 << 4
O_EXITKILL = 1 << 20  # for replicas only: it would end the target with us
O_SUSPEND_SECCOMP = 1 << 21
EVENT_EXEC = 4
EVENT_STOP = 128
WALL = 0x40000000
WNOTHREAD = 0x20000000  # only what the calling thread traces, and its children
NT_X86_XSTATE = 0x202


_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long
_SIGSET_SIZE = 8


_xstate = ctypes.create_string_buffer(16384)  # with AMX tiles it has 11 KiB


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))

    base: int
    len: int


class Stop(NamedTuple):
    """Why a traced thread stopped, or that it ended.

    `kind` is one of "event" (PTRACE_EVENT_STOP: our interrupt, or a job control stop with
    `signal` other than SIGTRAP), "syscall" (entry or exit of a system call), "signal" (it is about
    to be delivered), "other" (an event that was not asked for) and "ended".
    """

    kind: str
    signal: int


SIGTRAP = 5
INTERRUPTED = EVENT_STOP << 16 | SIGTRAP << 8 | 0x7F
"""What waitpid(2) says of a thread that PTRACE_INTERRUPT has stopped."""
ENDED = Stop("ended", 0)


def decode(status: int) -> Stop:
    """Return the stop that a status of waitpid(2) stands for."""
    if not os.WIFSTOPPED(status):
        return ENDED
    signal = os.WSTOPSIG(status)
    event = status >> 16
    if event == EVENT_STOP:
        return Stop("event", signal)
    if event:
        return Stop("other", signal)
    if signal == SIGTRAP | 0x80:
        return Stop("syscall", 0)
    return Stop("signal", signal)


def request(number: int, tid: int, address: int | None = None, data: object = None) -> int:
    """Make one request; raise the OSError that the kernel answers with."""
    result: int = _ptrace(number, tid, address, data)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def seize(tid: int, options: int = O_TRACESYSGOOD) -> None:
    """Become the tracer of a thread, without stopping it."""
    request(SEIZE, tid, None, options)


def set_options(tid: int, options: int) -> None:
    """Set the options of a stopped tracee."""
    request(SETOPTIONS, tid, None, options)


def get_registers(tid: int, into: Registers) -> None:
    """Read the general registers of a stopped thread."""
    request(GETREGS, tid, None, ctypes.addressof(into))


def set_registers(tid: int, registers: Registers) -> None:
    """Write the general registers of a stopped thread."""
    request(SETREGS, tid, None, ctypes.addressof(registers))


def get_xstate(tid: int) -> bytes:
    """Return the XSAVE area (standard format) of a stopped thread."""
    vector = _IoVec(ctypes.addressof(_xstate), len(_xstate))
    request(GETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))
    return ctypes.string_at(_xstate, vector.len)


def set_xstate(tid: int, xstate: bytes) -> None:
    """Write the XSAVE area of a stopped thread."""
    buffer = ctypes.create_string_buffer(xstate, len(xstate))
    vector = _IoVec(ctypes.addressof(buffer), len(buffer))
    request(SETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))


def get_sigmask(tid: int) -> int:
    """Return the blocked signals of a stopped thread, bit 0 for signal 1."""
    mask = ctypes.c_uint64()
    request(GETSIGMASK, tid, _SIGSET_SIZE, ctypes.addressof(mask))
    return mask.value


def set_sigmask(tid: int, mask: int) -> None:
    """Set the blocked signals of a stopped thread."""
    value = ctypes.c_uint64(mask)
    request(SETSIGMASK, tid, _SIGSET_SIZE, ctypes.addressof(value))


class SignalInfo(NamedTuple):
    """The start of a siginfo_t; `address` is si_addr of a fault."""

    signal: int
    code: int
    address: int


def get_siginfo(tid: int) -> SignalInfo:
    """Return the signal that a thread in signal-delivery-stop is about to get."""
    buffer = (ctypes.c_uint64 * 16)()
    request(GETSIGINFO, tid, None, ctypes.addressof(buffer))
    code = ctypes.c_int32(buffer[1] & 0xFFFFFFFF).value
    return SignalInfo(buffer[0] & 0xFFFFFFFF, code, buffer[2])


def rseq_area(tid: int) -> int:
    """Return the address of a stopped thread's `struct rseq`, 0 where it has none."""
    config = (ctypes.c_uint64 * 3)()
    try:
        request(GET_RSEQ_CONFIGURATION, tid, ctypes.sizeof(config), ctypes.addressof(config))
    except OSError:  # before Linux 5.13, or a kernel without rseq
        return 0
    return config[0]


def seccomp_filter(tid: int, index: int) -> bytes | None:
    """Return the index-th classic BPF program of a stopped thread, newest last; None past the end.

    Raises PermissionError without CAP_SYS_ADMIN in the initial user namespace.
    """
    try:
        count = request(SECCOMP_GET_FILTER, tid, index)
        buffer = ctypes.create_string_buffer(8 * count)
        request(SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    except FileNotFoundError:
        return None
    return buffer.raw[: 8 * count]

# SPDX-License-Identifier: GPL-2.0-or-later
"""A signal frame that brings a thread back by itself.

`struct rt_sigframe` (arch/x86/include/asm/sigframe.h) is what the kernel puts on a stack before it
runs a signal handler, and what rt_sigreturn reads to undo that: general registers, flags,
signal mask and the whole XSAVE area. Written by us below the red zone, it is a way
home that needs neither the patcher nor any memory of our own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.arch.registers import Registers

RED_ZONE = 128  # psABI 3.2.2: the area below rsp that a leaf function may use

SYSCALL_RETURN = bytes.fromhex("0f05 c3")  # syscall; ret
# mov rax, 15; syscall (in both encodings of the move): __restore_rt of glibc and musl, and of Go
RESTORERS = (bytes.fromhex("48c7c00f0000000f05"), bytes.fromhex("b80f0000000f05"))
POP_RAX_RETURN = bytes.fromhex("58 c3")  # pop rax; ret
RT_SIGRETURN = 15

_UC_FLAGS = 1 | 2 | 4  # UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
# An alternate stack that do_sigaltstack refuses (-EINVAL, ignored by restore_altstack): the
# thread keeps the one that it has.
_KEEP_ALTSTACK = struct.pack("<QIIQ", 0, 0x7FFF, 0, 0)
# fmt: off
_SAVED = (
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax",
    "rcx", "rsp", "rip", "eflags",
)
# fmt: on

_FRAME_SIZE = 8 + 16 + 24 + 8 * 18 + 8 + 8 * 4 + 8 + 64 + 8 + 128
_FX_SW_OFFSET = 464  # sw_reserved of the FXSAVE area, arch/x86/include/uapi/asm/sigcontext.h
_MAGIC1, _MAGIC2 = 0x46505853, 0x46505845
_XTILE = 3 << 17  # XFEATURE_MASK_XTILE: off unless the process asked for it
_XSTATE_WITHOUT_XTILE = 2696  # up to and with PKRU, the last component before XTILECFG


class Frame(NamedTuple):
    """A frame to be written at `address`; a `ret` with rsp there ends in rt_sigreturn.

    `sigreturn_rsp` is what rsp has to be when that is called.
    """

    address: int
    content: bytes
    sigreturn_rsp: int


def build(registers: Registers, xstate: bytes, sigmask: int, way: Sequence[int], top: int) -> Frame:
    """Return the frame that restores a thread, to lie wholly below `top`.

    `registers` are those with which it goes on (see `resumed_by_hand`), `xstate` is what
    PTRACE_GETREGSET gave for NT_X86_XSTATE, `way` what one `ret` after the other
    takes from the stack until rt_sigreturn is called: the address of a restorer, or of a
    `pop rax; ret`, the number of the call, and the address of a `syscall`.
    """
    xstate = _signal_xstate(xstate)
    fpstate = (top - len(xstate)) & -64
    last = ((fpstate - _FRAME_SIZE) & -16) - 8  # the alignment that a handler is entered with
    address = last + 8 - 8 * len(way)
    content = struct.pack(f"<{len(way)}QQQ", *way, _UC_FLAGS, 0) + _KEEP_ALTSTACK
    content += struct.pack("<18Q", *(getattr(registers, name) for name in _SAVED))
    content += struct.pack("<4H", registers.cs & 0xFFFF, 0, 0, registers.ss & 0xFFFF)
    content += struct.pack("<5Q64xQ", 0, 0, 0, 0, fpstate, sigmask)
    return Frame(address, content.ljust(fpstate - address, b"\0") + xstate, last + 8)


def _signal_xstate(xstate: bytes) -> bytes:
    """Return an XSAVE area with the software bytes that rt_sigreturn wants to see.

    PTRACE_GETREGSET gives the standard format with the enabled features in the first
    software word; `check_xstate_in_sigframe` wants two magics and the sizes, and a size that is
    not above what the process may use, which leaves out AMX unless the state is in use.
    """
    features = struct.unpack_from("<Q", xstate, _FX_SW_OFFSET)[0]
    in_use = struct.unpack_from("<Q", xstate, 512)[0]
    if features & _XTILE and not in_use & _XTILE:
        features &= ~_XTILE
        xstate = xstate[:_XSTATE_WITHOUT_XTILE]
    software = struct.pack("<IIQI28x", _MAGIC1, len(xstate) + 4, features, len(xstate))
    head, tail = xstate[:_FX_SW_OFFSET], xstate[_FX_SW_OFFSET + len(software) :]
    return head + software + tail + struct.pack("<I", _MAGIC2)

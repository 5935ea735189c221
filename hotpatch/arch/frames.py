# SPDX-License-Identifier: GPL-2.0-or-later
"""What unwinding has to know of x86-64: the numbers that DWARF gives to registers (psABI, figure
3.36), which of them a call keeps (psABI 3.2.1), how calls end, and what a signal frame looks like.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import TYPE_CHECKING

from hotpatch.arch.registers import Registers
from hotpatch.arch.sigframe import RESTORERS

if TYPE_CHECKING:
    from hotpatch.arch.disassembler import Instruction

# fmt: off
DWARF_REGISTERS = (
    "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip",
)
# fmt: on
"""The registers by DWARF number. 16 is the return address, of the innermost frame the rip."""
RBP = 6
RSP = 7
RETURN_ADDRESS = 16
LOST_IN_CALLS = (0, 1, 2, 4, 5, 8, 9, 10, 11)

_values = attrgetter(*DWARF_REGISTERS)


def values_of(registers: Registers) -> list[int | None]:
    """Return what the registers of a stopped thread hold, by DWARF number."""
    return list(_values(registers))


# call rel32, and call r/m64 in each of its lengths (Intel SDM, volume 2, CALL and tables 2-2, 2-3).
_CALL = re.compile(
    rb"(?:\xe8....|\xff(?:[\xd0-\xd7\x10-\x13\x16\x17]|\x14.|[\x50-\x53\x55-\x57].|\x54.."
    rb"|[\x15\x90-\x93\x95-\x97]....|[\x14\x94].....))\Z",
    re.DOTALL,
)
LONGEST_CALL = 7


def ends_with_call(code: bytes) -> bool:
    """Say whether the last instruction of `code` may be a call, so that its end is returned to."""
    return _CALL.search(code[-LONGEST_CALL:]) is not None


LONGEST_RESTORER = max(map(len, RESTORERS))


# Where `struct rt_sigframe` (see arch.sigframe) has the registers, from the stack pointer with
# which rt_sigreturn is called: 8 bytes into the frame, at the ucontext, whose uc_mcontext is at 40.
_UC_MCONTEXT = 40
# fmt: off
_SIGCONTEXT = (
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax",
    "rcx", "rsp", "rip",
)
# fmt: on
SIGNAL_FRAME = tuple(
    (DWARF_REGISTERS.index(name), _UC_MCONTEXT + 8 * index)
    for index, name in enumerate(_SIGCONTEXT)
)
"""(DWARF number, offset from rsp) of each register in a signal frame."""

_LEA_RSP = re.compile(r"rsp, \[rsp ([+-]) (0x[0-9a-f]+|\d+)\]")


def stack_growth(instruction: Instruction) -> int:
    """Return by how many bytes a push, pop or lea lowers rsp; 0 for any other instruction."""
    match = _LEA_RSP.fullmatch(instruction.operands)
    if instruction.mnemonic == "lea" and match:
        return int(match[2], 0) * (1 if match[1] == "-" else -1)
    return {"push": 8, "pop": -8}.get(instruction.mnemonic, 0)

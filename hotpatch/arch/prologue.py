# SPDX-License-Identifier: GPL-2.0-or-later
"""The first instructions of a function, as far as they can be undone.

Where an entry jump has to go behind some instructions, a call that turns to the replacement has
already run them. What most functions begin with only saves registers and makes room on the stack:

| instruction | is undone by |
|---|---|
| `push r64` | `pop r64` |
| `push` of anything else | `lea rsp, [rsp + 8]` |
| `sub rsp, n` | `lea rsp, [rsp + n]` |
| `mov rbp, rsp` behind `push rbp` | the `pop rbp` |
| `endbr64`, NOPs | nothing |

All of it leaves the flags alone, and the area below rsp is dead at a function's entry.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

from hotpatch.arch.disassembler import Instruction

_PUSH_REGISTER = re.compile(rb"\x41?[\x50-\x53\x55-\x57]|\x41\x54")
_PUSH_TO_POP = 8  # push is opcode 50 + register, pop 58 + register (SDM volume 2, appendix A)
_PUSH_RBP, _FRAME = b"\x55", (b"\x48\x89\xe5", b"\x48\x8b\xec")
_LEA_RSP = b"\x48\x8d\xa4\x24"  # lea rsp, [rsp + disp32]


def undo(instructions: Sequence[Instruction]) -> bytes | None:
    """Return the code that undoes `instructions`, run from a function's entry on; None if none."""
    pieces: list[bytes] = []
    for number, instruction in enumerate(instructions):
        if instruction.data in _FRAME:
            pushed = any(i.data == _PUSH_RBP for i in instructions[:number])
            piece = b"" if pushed else None
        else:
            piece = _undo_one(instruction)
        if piece is None:
            return None
        pieces.insert(0, piece)
    return b"".join(pieces)


def _undo_one(instruction: Instruction) -> bytes | None:
    mnemonic, operands, data = instruction.mnemonic, instruction.operands, instruction.data
    if mnemonic in ("nop", "endbr64"):
        return b""
    if _PUSH_REGISTER.fullmatch(data):
        return data[:-1] + bytes((data[-1] + _PUSH_TO_POP,))
    # A 16-bit push has the prefix 66; rsp itself and operands relative to rip are left alone.
    if mnemonic == "push" and data[0] != 0x66 and "sp" not in operands and "ip" not in operands:
        return _raise_rsp(8)
    if (
        mnemonic == "sub"
        and operands.startswith("rsp, 0x")
        and len(operands) < len("rsp, 0x80000000")
    ):
        return _raise_rsp(int(operands[5:], 16))
    return None


def _raise_rsp(size: int) -> bytes:
    return _LEA_RSP + struct.pack("<i", size)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding instructions; the only place that imports capstone.

`decode` is cheap (a few microseconds for an entry): it asks capstone for the text of the
instructions only. The place of an operand inside the bytes is looked up by `rip_operand`
for the few instructions that have one relative to `rip`.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, NamedTuple

CALL, JUMP, BRANCH, LOOP, RETURN, TRAP, TRANSACTION, PLAIN = (
    "call", "jump", "branch", "loop", "return", "trap", "transaction", "plain",
)  # fmt: skip
"""How an instruction goes on: `branch` is a Jcc, `loop` a branch that has only an 8-bit form."""

_FLOW = {
    "call": CALL,
    "jmp": JUMP,
    "jecxz": LOOP,
    "jrcxz": LOOP,
    "loop": LOOP,
    "loope": LOOP,
    "loopne": LOOP,
    "ret": RETURN,
    "retf": RETURN,
    "retfq": RETURN,
    "iret": RETURN,
    "iretd": RETURN,
    "iretq": RETURN,
    "sysret": RETURN,
    "sysretq": RETURN,
    "sysexit": RETURN,
    "sysexitq": RETURN,
    "ud0": TRAP,
    "ud1": TRAP,
    "ud2": TRAP,
    "hlt": TRAP,
    "int3": TRAP,
    "lcall": CALL,
    "ljmp": JUMP,
    "xbegin": TRANSACTION,
}


class Instruction(NamedTuple):
    """One decoded instruction, in Intel syntax."""

    address: int
    data: bytes
    mnemonic: str
    operands: str

    @property
    def end(self) -> int:
        """Address of the byte behind the instruction."""
        return self.address + len(self.data)

    @property
    def flow(self) -> str:
        """Where control goes: one of this module's constants."""
        # Prefixes are words of the mnemonic: "notrack jmp", "repz ret".
        word = self.mnemonic.rpartition(" ")[2]
        if word[0] == "j" and word not in _FLOW:
            return BRANCH
        return _FLOW.get(word, PLAIN)

    @property
    def ends_block(self) -> bool:
        """Whether control never goes on behind the instruction."""
        return self.flow in (JUMP, RETURN, TRAP)

    @property
    def target(self) -> int | None:
        """Address that a direct jump, branch, loop, call or xbegin goes to."""
        if self.operands[:1].isdigit() and self.flow not in (PLAIN, RETURN, TRAP):
            return int(self.operands, 0)
        return None

    def __str__(self) -> str:
        text = f"{self.mnemonic} {self.operands}".rstrip()
        return f"{self.address:#x}: {self.data.hex(' ')}  {text}"


class RipOperand(NamedTuple):
    """A memory operand relative to rip: offset of its 32-bit displacement, and its address."""

    offset: int
    address: int


def decode(code: bytes, address: int, count: int = 0) -> list[Instruction]:
    """Return the instructions at the front of `code`, up to the first that is no instruction.

    `count` limits how many are decoded (0: all).
    """
    engine, instructions, offset = _decoder(), [], 0
    for place, size, mnemonic, operands in engine.disasm_lite(code, address, count):
        data = code[offset : offset + size]
        instructions.append(Instruction(place, data, mnemonic, operands))
        offset += size
    return instructions


def rip_operand(instruction: Instruction) -> RipOperand | None:
    """Return the operand that is relative to rip, None where there is none.

    Raises ValueError where the decoder and the bytes disagree about it, or for `[eip + n]`.
    """
    if "rip" not in instruction.operands and "eip" not in instruction.operands:
        return None
    if "eip" in instruction.operands:
        raise ValueError("addresses memory relative to eip")
    engine = _engine()
    (detail,) = engine.disasm(instruction.data, instruction.address)
    offset, data = detail.disp_offset, instruction.data
    # Mod 00, r/m 101 in the byte before is what makes a displacement relative (SDM 2.2.1.6).
    if not 1 < offset <= len(data) - 4 or data[offset - 1] & 0xC7 != 0x05:
        raise ValueError("has an operand relative to rip that was not found in its bytes")
    (displacement,) = struct.unpack_from("<i", data, offset)
    return RipOperand(offset, instruction.end + displacement)


@cache
def _decoder() -> Any:
    """Return what decodes to text; the package only where its library can't be had without."""
    from hotpatch.arch.libcapstone import open_engine  # noqa: PLC0415

    return open_engine() or _engine()


@cache
def _engine() -> Any:
    import capstone  # noqa: PLC0415 - 40 ms that only operands relative to rip are worth

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return engine

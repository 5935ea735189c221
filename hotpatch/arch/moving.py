# SPDX-License-Identifier: GPL-2.0-or-later
"""Rewriting one instruction so that it does at another address what it did at its own.

| instruction | becomes |
|---|---|
| refers to no address of its own | the same bytes |
| operand relative to rip | the same, the displacement corrected |
| `jmp`, `jcc`, 8 or 32 bits | the 32-bit form |
| `loop`, `jrcxz` and kin | itself, over two jumps (`displaced_loop.S`) |
| `call` | the push of the original return address (`displaced_call.S`) and a jump |

Sizes don't depend on addresses, so that code can be laid out before its place is known.
"""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.arch import code
from hotpatch.arch.assembler import Template, template
from hotpatch.arch.disassembler import (
    BRANCH,
    CALL,
    JUMP,
    LOOP,
    PLAIN,
    TRANSACTION,
    Instruction,
    rip_operand,
)

LITERAL_SIZE = 8
"""Size of the literal that a moved call keeps its return address in."""

_COPY, _RIP = "copy", "rip"
_OPERAND_SIZE = 0x66
_PREFIXES = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3" + bytes(range(0x40, 0x50))
# ModRM of opcode FF: reg 2 is CALL, reg 3 far CALL, reg 4 is JMP (SDM volume 2, table A-6).
_REG_MASK, _REG_CALL, _REG_JUMP = 7 << 3, 2 << 3, 4 << 3


class Unmovable(ValueError):
    """An instruction that can't run anywhere but at its own address; says why."""


class Move(NamedTuple):
    """An instruction and how it is moved; `size` is that of its new code, without a literal."""

    instruction: Instruction
    kind: str
    size: int

    @property
    def literal(self) -> bytes:
        """The bytes of the literal that goes with the new code, b"" if it needs none."""
        if self.kind == CALL:
            return self.instruction.end.to_bytes(LITERAL_SIZE, "little")
        return b""


def plan_move(instruction: Instruction) -> Move:
    """Return how to move an instruction; Unmovable if there is no way."""
    flow = instruction.flow
    if flow == PLAIN and "ip" not in instruction.operands:
        return Move(instruction, _COPY, len(instruction.data))
    if instruction.data == b"\xcc":
        raise Unmovable("is a breakpoint: a debugger or an uprobe is at work there")
    if flow == TRANSACTION:
        raise Unmovable("begins a transaction whose abort handler is relative to it")
    if instruction.target is not None:
        return _plan_direct(instruction, flow)
    if flow == CALL:
        return _plan_indirect_call(instruction)
    return Move(instruction, _operand_kind(instruction), len(instruction.data))


def encode_move(move: Move, address: int, target: int | None, literal: int) -> bytes:
    """Return the new code at `address`.

    `target` is where a direct jump, branch, loop or call leads; `literal` the address of the
    move's literal. OverflowError where something is more than 2 GB away.
    """
    instruction, kind = move.instruction, move.kind
    if kind == _COPY:
        return instruction.data
    if kind == _RIP:
        return _with_displacement(instruction, instruction.data, address)
    if kind == CALL:
        push = _push().fill(address, return_slot=literal)
        return push + _call_as_jump(instruction, address + len(push), target)
    assert target is not None
    if kind == JUMP:
        return code.jump(address, target)
    if kind == BRANCH:
        return code.conditional_jump(_condition(instruction.data), address, target)
    head = instruction.data[:-1] + b"\x02"
    return head + _loop().fill(address + len(head), target=target)


def _plan_direct(instruction: Instruction, flow: str) -> Move:
    # AMD cuts rip to 16 bits where Intel ignores the prefix: no compiler emits it.
    if _OPERAND_SIZE in instruction.data[: _opcode(instruction)]:
        raise Unmovable("is a branch with an operand-size prefix")
    size = {
        JUMP: code.JUMP_SIZE,
        BRANCH: code.CONDITIONAL_JUMP_SIZE,
        LOOP: len(instruction.data) + len(_loop().code),
        CALL: len(_push().code) + code.JUMP_SIZE,
    }[flow]
    return Move(instruction, flow, size)


def _plan_indirect_call(instruction: Instruction) -> Move:
    if "sp" in instruction.operands:
        raise Unmovable("calls through the stack pointer, which the moved call has changed")
    opcode = _opcode(instruction)
    if _OPERAND_SIZE in instruction.data[:opcode]:
        raise Unmovable("is a call with an operand-size prefix")
    if instruction.data[opcode + 1] & _REG_MASK != _REG_CALL:
        raise Unmovable("is a far call")
    _operand_kind(instruction)
    return Move(instruction, CALL, len(_push().code) + len(instruction.data))


def _operand_kind(instruction: Instruction) -> str:
    try:
        return _COPY if rip_operand(instruction) is None else _RIP
    except ValueError as error:
        raise Unmovable(str(error)) from None


def _call_as_jump(instruction: Instruction, address: int, target: int | None) -> bytes:
    if target is not None:
        return code.jump(address, target)
    data = bytearray(instruction.data)
    modrm = _opcode(instruction) + 1
    data[modrm] = data[modrm] & ~_REG_MASK | _REG_JUMP
    return _with_displacement(instruction, bytes(data), address)


def _with_displacement(instruction: Instruction, data: bytes, address: int) -> bytes:
    operand = rip_operand(instruction)
    if operand is None:
        return data
    displacement = operand.address - (address + len(data))
    encoded = displacement.to_bytes(4, "little", signed=True)
    return data[: operand.offset] + encoded + data[operand.offset + 4 :]


def _opcode(instruction: Instruction) -> int:
    """Return the offset of the opcode of a branch, which is none of the prefixes."""
    return len(instruction.data) - len(instruction.data.lstrip(_PREFIXES))


def _condition(data: bytes) -> int:
    near = len(data) >= code.CONDITIONAL_JUMP_SIZE and data[-6] == 0x0F
    return data[-5 if near else -2] & 0xF


def _push() -> Template:
    return template("displaced_call.S", "return_slot")


def _loop() -> Template:
    return template("displaced_loop.S", "target")

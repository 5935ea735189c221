# SPDX-License-Identifier: GPL-2.0-or-later
"""What is to be known of instructions to compare and to move them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.arch.disassembler import CALL, PLAIN, decode, rip_operand

_CALL, _JUMP, _TWO_BYTES, _JCC = 0xE8, 0xE9, 0x0F, 0x80


def is_branch(code: bytes, offset: int) -> bool:
    """Tell whether the 32-bit field at `offset` is the distance of a call or jump (SDM, vol. 2)."""
    before = code[offset - 1] if 0 < offset <= len(code) else 0
    if before in (_CALL, _JUMP):
        return True
    return offset > 1 and code[offset - 2] == _TWO_BYTES and before & 0xF0 == _JCC


class Distance(NamedTuple):
    """A field of `size` bytes at `offset`, of an instruction that ends at `end`, and its target."""

    offset: int
    size: int
    end: int
    target: int
    branch: bool


def distances(code: bytes, start: int) -> Iterator[Distance]:
    """Yield the relative operands of the instructions from `start` of `code` on."""
    for instruction in decode(code[start:], start):
        end = instruction.end
        if instruction.target is not None:
            data = instruction.data
            size = 4 if len(data) >= 5 else 1
            if instruction.flow == CALL or size in (1, 4):
                yield Distance(end - size, size, end, instruction.target, True)
        elif instruction.flow == PLAIN and "rip" in instruction.operands:
            operand = rip_operand(instruction)
            if operand is not None:
                place = instruction.address + operand.offset
                yield Distance(place, 4, end, operand.address, False)


def decoded_ends(code: bytes) -> list[int]:
    """Return the offset behind each instruction; bytes that are none are passed over."""
    ends: list[int] = []
    at = 0
    while at < len(code):
        found = decode(code[at:], at)
        ends += [instruction.end for instruction in found]
        at = ends[-1] + 1 if found else at + 1
    return ends

# SPDX-License-Identifier: GPL-2.0-or-later
"""Displaced instructions: the code that lay where the entry jump is, moved into the gate.

The moved code is followed by a jump to where the function goes on, and by the return
addresses of moved calls:

    displaced instructions, each as `arch.moving` has it
    jmp     resume                  (not where the last one never goes on)
    .quad   return addresses

A call must be the last displaced instruction: its callee returns to the original return
address, and one in front of that would lie under the jump.
"""

from __future__ import annotations

from collections.abc import Sequence

from hotpatch.arch.code import JUMP_SIZE, jump
from hotpatch.arch.disassembler import CALL, Instruction, rip_operand
from hotpatch.arch.moving import LITERAL_SIZE, Move, Unmovable, encode_move, plan_move


def plan_displaced(instructions: Sequence[Instruction], start: int, end: int) -> tuple[Move, ...]:
    """Return how to move `instructions`, which the jump at [`start`, `end`) covers.

    Raises Unmovable, its `instruction` being the one that can't be moved.
    """
    moves = []
    for instruction in instructions:
        try:
            moves.append(plan_move(instruction))
            _check_place(instruction, start, end)
        except Unmovable as error:
            raise Unmovable(f"the instruction {instruction} {error}") from None
    return tuple(moves)


def displaced_size(moves: Sequence[Move], resume: int | None) -> int:
    """Return the size of the displaced code, wherever it is put."""
    literals = sum(len(move.literal) for move in moves)
    return sum(move.size for move in moves) + literals + (JUMP_SIZE if resume is not None else 0)


def displace(
    moves: Sequence[Move], address: int, resume: int | None, entries: range = range(0)
) -> bytes:
    """Return the displaced code for `address`, going on at `resume` (None: it never does).

    A displaced branch back to one of `entries`, the addresses up to the first displaced
    instruction, stays in the displaced code. OverflowError where something is out of reach.
    """
    literal = address + displaced_size(moves, resume) - sum(len(m.literal) for m in moves)
    place, pieces, literals = address, [], []
    for move in moves:
        target = move.instruction.target
        if target is not None and target in entries:
            target = address
        pieces.append(encode_move(move, place, target, literal))
        place += move.size
        if move.literal:
            literals.append(move.literal)
            literal += LITERAL_SIZE
    if resume is not None:
        pieces.append(jump(place, resume))
    return b"".join(pieces + literals)


def _check_place(instruction: Instruction, start: int, end: int) -> None:
    if instruction.flow == CALL and instruction.end < end:
        raise Unmovable("returns into the bytes that the jump needs")
    if instruction.mnemonic != "lea" and "rip" in instruction.operands:
        operand = rip_operand(instruction)
        if operand is not None and start - 8 < operand.address < end:
            raise Unmovable("refers to the bytes that the jump needs")

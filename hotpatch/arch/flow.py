# SPDX-License-Identifier: GPL-2.0-or-later
"""Where control can go inside a function, by its direct jumps and branches."""

from __future__ import annotations

from hotpatch.arch.disassembler import CALL, decode


def reaches(code: bytes, address: int, start: int, goal: int) -> bool:
    """Say whether control can get from one instruction of a function to another.

    `code` is the function at `address`. Indirect jumps and other parts of the function are not
    followed, so what is reached only by way of a jump table is missed. Both have to be the start of
    an instruction; the answer is False where they aren't.
    """
    instructions = {instruction.address: instruction for instruction in decode(code, address)}
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        at = waiting.pop()
        instruction = instructions.get(at)
        if at in seen or instruction is None:
            continue
        if at == goal:
            return True
        seen.add(at)
        if not instruction.ends_block:
            waiting.append(instruction.end)
        if instruction.target is not None and instruction.flow != CALL:
            waiting.append(instruction.target)
    return False


def call_before(code: bytes, address: int, end: int) -> int | None:
    """Return the address of the call that ends at `end`, None where there is none."""
    calls = (i for i in decode(code[: end - address], address) if i.end == end and i.flow == CALL)
    return next((instruction.address for instruction in calls), None)

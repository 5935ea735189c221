# SPDX-License-Identifier: GPL-2.0-or-later
"""What a gate's code does to the stack, so that a thread inside a gate can be unwound.

A gate does what the front of the old function does, so at each of its instructions the stack is
as at some instruction of that function, whose call frame information says the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.arch.assembler import template
from hotpatch.arch.code import JUMP_SIZE
from hotpatch.arch.disassembler import BRANCH, CALL, decode
from hotpatch.arch.frames import stack_growth
from hotpatch.arch.prologue import undo
from hotpatch.redirect.entry import Entry

_WORD = 8


class GateFrame(NamedTuple):
    """From `offset` of a gate on, the stack is as in the old function at `address`.

    Except that rsp is `lowered` bytes lower than there.
    """

    offset: int
    address: int
    lowered: int


def gate_frames(entry: Entry, choice: bytes, waits: bytes) -> tuple[GateFrame, ...]:
    """Return how the stack is in a gate that begins with the bytes `choice`.

    Those are what lies before the displaced instructions: the test of the switch, and what goes
    to the replacement. Behind them lies `waits`, where callers wait.
    """
    displaced = list(_displaced(entry, len(choice)))
    places = [*_choice(entry, choice), *displaced, *_waiting(entry, waits, displaced[-1].offset)]
    previous: tuple[int, int] | None = None
    frames = []
    for frame in places:
        if frame[1:] != previous:
            frames.append(frame)
            previous = frame[1:]
    return tuple(frames)


def _choice(entry: Entry, code: bytes) -> Iterator[GateFrame]:
    """Yield the places of a gate's front: a test, up to its branches, and the undoing behind it."""
    lowered = end = 0
    flow = ""
    for instruction in decode(code, 0):
        if flow == BRANCH != instruction.flow:
            break
        flow = instruction.flow
        yield GateFrame(instruction.address, entry.start, lowered)
        lowered += stack_growth(instruction)
        end = instruction.end
    if end == len(code):
        return
    offset = end
    for count in range(len(entry.kept), 0, -1):
        state = entry.kept[count].address if count < len(entry.kept) else entry.start
        yield GateFrame(offset, state, 0)
        offset += _undo_size(entry, count) - _undo_size(entry, count - 1)
    yield GateFrame(offset, entry.kept[0].address if entry.kept else entry.start, 0)


def _undo_size(entry: Entry, count: int) -> int:
    return len(undo(entry.kept[:count]) or b"")


def _displaced(entry: Entry, offset: int) -> Iterator[GateFrame]:
    """Yield the places behind a gate's front."""
    end = entry.start
    yield GateFrame(offset, entry.start, 0)
    for move in entry.displaced:
        yield GateFrame(offset, move.instruction.address, 0)
        if move.kind == CALL:  # the return address is pushed, the jump is to come
            pushed = offset + len(template("displaced_call.S", "return_slot").code)
            yield GateFrame(pushed, move.instruction.address, _WORD)
        offset += move.size
        end = move.instruction.end
    if entry.resume is not None:
        yield GateFrame(offset, end, 0)
        offset += JUMP_SIZE
    offset += sum(len(move.literal) for move in entry.displaced)
    for instruction in entry.kept:
        yield GateFrame(offset, instruction.address, 0)
        offset += len(instruction.data)
    if entry.kept:
        yield GateFrame(offset, entry.start, 0)
        offset += JUMP_SIZE
    yield GateFrame(offset, entry.start, 0)


def _waiting(entry: Entry, code: bytes, offset: int) -> Iterator[GateFrame]:
    """Yield the places where a caller waits."""
    lowered = 0
    for instruction in decode(code, 0):
        yield GateFrame(offset + instruction.address, entry.start, lowered)
        lowered += stack_growth(instruction)

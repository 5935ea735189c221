# SPDX-License-Identifier: GPL-2.0-or-later
"""Gates: the code that decides, at every call of a redirected function, between old and new.

    gate:      test of the switch; if it is on, what undoes kept instructions, and to the new code
    old:       displaced instructions, jump into the old function
    original:  kept instructions, jump to old       (is `old` where none are kept)

A gate has one size wherever it is put, so many can be laid out before their places are
known: `gate_size`, then `build_gate`, or `build_gates` for a row of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.arch.assembler import Template, template
from hotpatch.arch.code import FILL, JUMP_SIZE, jump, reaches
from hotpatch.arch.prologue import undo
from hotpatch.errors import Refused
from hotpatch.redirect.displace import displace, displaced_size
from hotpatch.redirect.entry import Entry
from hotpatch.redirect.frames import GateFrame, gate_frames

GATE_ALIGNMENT = 16


class GateCode(NamedTuple):
    """A gate built for an address."""

    address: int
    code: bytes
    original: int
    """Where the old function can be called whatever the switch says (HOTPATCH_ORIGINAL)."""
    frames: tuple[GateFrame, ...]
    """What it does to the stack, by offset."""


def gate_size(entry: Entry) -> int:
    """Return the size of the entry's gate, a multiple of GATE_ALIGNMENT."""
    size = len(_far_test().code) + len(_far_jump().code)
    size += displaced_size(entry.displaced, entry.resume)
    if entry.kept:
        kept = sum(len(instruction.data) for instruction in entry.kept)
        size += len(_undo(entry)) + kept + JUMP_SIZE
    return -(-size // GATE_ALIGNMENT) * GATE_ALIGNMENT


def build_gate(entry: Entry, address: int, switch: int, new: int) -> GateCode:
    """Build the gate for `address`, which must be within 2 GB of the entry.

    The word at `switch` and the replacement `new` may be anywhere. Raises Refused where the
    entry or something that its displaced instructions refer to is out of reach.
    """
    try:
        code = _choice(entry, address, switch, new)
        original = old = address + len(code)
        frames = gate_frames(entry, code)
        code += displace(entry.displaced, old, entry.resume, entry.entries)
        if entry.kept:
            original = address + len(code)
            code += b"".join(instruction.data for instruction in entry.kept)
            code += jump(address + len(code), old)
    except OverflowError as error:
        raise _out_of_reach(entry, str(error)) from None
    if not reaches(entry.jump + JUMP_SIZE, address):
        raise _out_of_reach(entry, f"no jump reaches {address:#x}")
    room = gate_size(entry) - len(code)
    return GateCode(address, code + (FILL * room)[:room], original, frames)


def build_gates(
    entries: Sequence[Entry], address: int, switch: int, new: Sequence[int]
) -> list[GateCode]:
    """Build the gates of many functions, one behind the other from `address` on."""
    gates = []
    for entry, replacement in zip(entries, new, strict=True):
        gates.append(build_gate(entry, address, switch, replacement))
        address += len(gates[-1].code)
    return gates


def _choice(entry: Entry, address: int, switch: int, new: int) -> bytes:
    """Return the front of a gate, which goes to `new`, or on behind itself."""
    if not entry.kept:
        try:
            return template("gate.S", "switch", "new").fill(address, switch=switch, new=new)
        except OverflowError:
            pass
    return _test_and_jump(entry, address, switch, new)


def _test_and_jump(entry: Entry, address: int, switch: int, new: int) -> bytes:
    near = template("gate_kept.S", "switch", "old")
    test = near if reaches(address + len(near.code), switch) else _far_test()
    front = address + len(test.code)
    to_new = _undo(entry)
    if reaches(front + len(to_new) + JUMP_SIZE, new):
        to_new += jump(front + len(to_new), new)
    else:
        to_new += _far_jump().fill(front + len(to_new), new=new)
    return test.fill(address, switch=switch, old=front + len(to_new)) + to_new


def _undo(entry: Entry) -> bytes:
    code = undo(entry.kept)
    assert code is not None
    return code


def _far_test() -> Template:
    return template("gate_far.S", "switch", "old")


def _far_jump() -> Template:
    return template("gate_far_jump.S", "new")


def _out_of_reach(entry: Entry, what: str) -> Refused:
    return Refused(
        f"the gate of {entry.name} can't be placed: {what}",
        "there is no free memory near the function",
        function=entry.name,
    )

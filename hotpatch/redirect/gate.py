# SPDX-License-Identifier: GPL-2.0-or-later
"""Gates: the code that decides, at every call of a redirected function, between old and new.

    gate:      test of the switch, to the replacement if it is on
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
from hotpatch.errors import Refused
from hotpatch.redirect.displace import displace, displaced_size
from hotpatch.redirect.entry import Entry

GATE_ALIGNMENT = 16


class GateCode(NamedTuple):
    """A gate built for an address."""

    address: int
    code: bytes
    original: int
    """Where the old function can be called whatever the switch says (HOTPATCH_ORIGINAL)."""


def gate_size(entry: Entry) -> int:
    """Return the size of the entry's gate, a multiple of GATE_ALIGNMENT."""
    size = len(_far().code) + displaced_size(entry.displaced, entry.resume)
    if entry.kept:
        size += sum(len(instruction.data) for instruction in entry.kept) + JUMP_SIZE
    return -(-size // GATE_ALIGNMENT) * GATE_ALIGNMENT


def build_gate(entry: Entry, address: int, switch: int, new: int) -> GateCode:
    """Build the gate for `address`, which must be within 2 GB of the entry.

    The word at `switch` and the replacement `new` may be anywhere. Raises Refused where the
    entry or something that its displaced instructions refer to is out of reach.
    """
    try:
        code = _head(entry, address, switch, new)
        original = old = address + len(code)
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
    return GateCode(address, code + (FILL * room)[:room], original)


def build_gates(
    entries: Sequence[Entry], address: int, switch: int, new: Sequence[int]
) -> list[GateCode]:
    """Build the gates of many functions, one behind the other from `address` on."""
    gates = []
    for entry, replacement in zip(entries, new, strict=True):
        gates.append(build_gate(entry, address, switch, replacement))
        address += len(gates[-1].code)
    return gates


def _head(entry: Entry, address: int, switch: int, new: int) -> bytes:
    near = template("gate_kept.S", "switch", "new", "undo") if entry.kept else _near()
    symbols = {"switch": switch, "new": new, "undo": entry.undo}
    try:
        return near.fill(address, **symbols)
    except OverflowError:
        return _far().fill(address, **symbols)


def _near() -> Template:
    return template("gate.S", "switch", "new")


def _far() -> Template:
    return template("gate_far.S", "switch", "new", "undo")


def _out_of_reach(entry: Entry, what: str) -> Refused:
    return Refused(
        f"the gate of {entry.name} can't be placed: {what}",
        "there is no free memory near the function",
        function=entry.name,
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Gates: the code that decides, at every call of a redirected function, between old and new.

    gate:      test of the switch; if it is on, what undoes kept instructions, and to the new code
    old:       displaced instructions, jump into the old function
    original:  kept instructions, jump to old       (is `old` where none are kept)
    wait:      where callers wait while calls run out (trampolines/x86_64/gate_wait.S)

A function that leads back to its own entry has no `wait`: who comes back is no new caller.

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
DEADLINE_SIZE, DOOR_SIZE = 16, 4
"""What a row of gates has in writable memory: a struct timespec, then a word for each gate."""


class Door(NamedTuple):
    """Addresses of the word that says whether callers wait, and of the time until which."""

    word: int
    deadline: int


class GateCode(NamedTuple):
    """A gate built for an address."""

    address: int
    code: bytes
    original: int
    """Where the old function can be called whatever the switch says (HOTPATCH_ORIGINAL)."""
    frames: tuple[GateFrame, ...]
    """What it does to the stack, by offset."""
    door: int
    """The address of the word by which callers are made to wait, 0 where they can't be."""
    waiting: tuple[int, int]
    """(start, end) of the code in which a caller waits, and nothing is decided yet."""


def gate_size(entry: Entry) -> int:
    """Return the size of the entry's gate, a multiple of GATE_ALIGNMENT."""
    size = len(_far_test().code) + len(_far_jump().code)
    size += displaced_size(entry.displaced, entry.resume)
    size += (len(_undo(entry)) if entry.kept else 0) + _kept_size(entry)
    if not entry.reentries:
        size += len(_waiting().code)
    return -(-size // GATE_ALIGNMENT) * GATE_ALIGNMENT


def build_gate(entry: Entry, address: int, switch: int, new: int | None, door: Door) -> GateCode:
    """Build the gate for `address`, which must be within 2 GB of the entry and its door.

    The word at `switch` and the replacement `new` may be anywhere; None for no replacement: the
    gate of an update point, which does nothing but make callers wait. Raises Refused
    where the entry or something that its displaced instructions refer to is out of reach.
    """
    body_size = displaced_size(entry.displaced, entry.resume) + _kept_size(entry)
    try:
        front = _front(entry, address, switch, new, 0 if entry.reentries else body_size)
        original = old = address + len(front.code)
        body = displace(entry.displaced, old, entry.resume, entry.entries)
        if entry.kept:
            original = old + len(body)
            body += b"".join(instruction.data for instruction in entry.kept)
            body += jump(old + len(body), old)
        wait = decided = old + len(body)
        waits = b""
        if not entry.reentries:
            decided += _waiting().labels["open"]
            waits = _waiting().fill(
                wait, door=door.word, deadline=door.deadline, switch=switch, new=front.new, old=old
            )
    except OverflowError as error:
        raise _out_of_reach(entry, str(error)) from None
    if not reaches(entry.jump + JUMP_SIZE, address):
        raise _out_of_reach(entry, f"no jump reaches {address:#x}")
    code = front.code + body + waits
    room = gate_size(entry) - len(code)
    return GateCode(
        address,
        code + (FILL * room)[:room],
        original,
        gate_frames(entry, front.code, waits),
        door.word if waits else 0,
        (wait, decided),
    )


def build_gates(
    entries: Sequence[Entry], address: int, switch: int, new: Sequence[int | None], doors: int
) -> list[GateCode]:
    """Build the gates of many functions, one behind the other from `address` on.

    At `doors` they have what `doors_size` says.
    """
    gates = []
    for number, (entry, replacement) in enumerate(zip(entries, new, strict=True)):
        door = Door(doors + DEADLINE_SIZE + DOOR_SIZE * number, doors)
        gates.append(build_gate(entry, address, switch, replacement, door))
        address += len(gates[-1].code)
    return gates


def doors_size(gates: int) -> int:
    """Return how much writable memory a row of gates needs."""
    return DEADLINE_SIZE + DOOR_SIZE * gates


class _Front(NamedTuple):
    """The test of a gate, and what goes to the replacement, at `new`."""

    code: bytes
    new: int


def _front(entry: Entry, address: int, switch: int, new: int | None, body: int) -> _Front:
    """Return what goes to `new`, on behind itself, or to what waits, `body` bytes further on."""
    if not entry.kept and new is not None:
        try:
            near = template("gate.S", "switch", "new", "wait")
            wait = address + len(near.code) + body
            return _Front(near.fill(address, switch=switch, new=new, wait=wait), new)
        except OverflowError:
            pass
    test = _test(address, switch)
    to_new = b"" if new is None else _to_new(entry, address + len(test.code), new)
    old = address + len(test.code) + len(to_new)
    code = test.fill(address, switch=switch, old=old, wait=old + body) + to_new
    return _Front(code, address + len(test.code))


def _test(address: int, switch: int) -> Template:
    near = _near_test()
    return near if reaches(address + len(near.code), switch) else _far_test()


def _to_new(entry: Entry, address: int, new: int) -> bytes:
    """Return code for `address` that undoes what was kept, and goes to the replacement."""
    undoing = _undo(entry)
    place = address + len(undoing)
    if reaches(place + JUMP_SIZE, new):
        return undoing + jump(place, new)
    return undoing + _far_jump().fill(place, new=new)


def _kept_size(entry: Entry) -> int:
    """Return the size of the copy of kept instructions, with the jump behind it."""
    size = sum(len(instruction.data) for instruction in entry.kept)
    return size + JUMP_SIZE if entry.kept else 0


def _undo(entry: Entry) -> bytes:
    code = undo(entry.kept)
    assert code is not None
    return code


def _waiting() -> Template:
    return template("gate_wait.S", "door", "deadline", "switch", "new", "old")


def _near_test() -> Template:
    return template("gate_kept.S", "switch", "old", "wait")


def _far_test() -> Template:
    return template("gate_far.S", "switch", "old", "wait")


def _far_jump() -> Template:
    return template("gate_far_jump.S", "new")


def _out_of_reach(entry: Entry, what: str) -> Refused:
    return Refused(
        f"the gate of {entry.name} can't be placed: {what}",
        "there is no free memory near the function",
        function=entry.name,
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries: the jump to the gate in a live function, and how it is written.

A write within one page is one copy of the kernel's that SIGKILL can't split. So every step of
`arm_writes` and `disarm_writes` is such a write, and behind each of them the function
works as before, whether through the gate or not. `sites` has the places where a jump may go;
`plan_entry` takes the first where that can be had, and refuses where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hotpatch.arch import code as machine
from hotpatch.arch.branches import branches_to, possible_branches_to
from hotpatch.arch.code import JUMP_SIZE, PAGE_SIZE, SHORT_JUMP_SIZE
from hotpatch.arch.disassembler import CALL, JUMP, Instruction, decode
from hotpatch.arch.moving import Move, Unmovable
from hotpatch.arch.prologue import undo
from hotpatch.arch.tables import table_targets
from hotpatch.errors import Refused
from hotpatch.redirect.displace import plan_displaced
from hotpatch.redirect.sites import (
    WINDOW,
    Function,
    Padding,
    Site,
    Stretch,
    crosses_page,
    sites,
)

__all__ = ["Entry", "Function", "Stretch", "Write", "chained_entry", "plan_entries", "plan_entry"]


class Write(NamedTuple):
    """Bytes to be written to the target with one write, which lies in one page."""

    address: int
    data: bytes


class Entry(NamedTuple):
    """A function's entry and how its jump is put there and taken away."""

    name: str
    address: int
    """Of the function."""
    start: int
    """Of the first displaced instruction."""
    jump: int
    """Where the jump is written; beyond `start` by a prefix that stays, else the same."""
    original: bytes
    """What the jump overwrites: 5 bytes, or 2 where there is an island."""
    displaced: tuple[Move, ...]
    resume: int | None
    """Where the old path goes on behind the displaced instructions; None: they never do."""
    kept: tuple[Instruction, ...] = ()
    """Instructions of the prologue that stay in place before the jump; the gate undoes them."""
    island: Stretch | None = None
    """The 5 bytes of padding that hold the jump to the gate, as they were."""
    reentries: tuple[int, ...] = ()
    """Where the function branches (or a table leads) back to its entry: through the gate again.

    A thread may then stand at the first byte of entry or gate in the middle of the old function,
    and an old function called by its replacement goes on as new.
    """
    retargetable: bool = True
    """Whether an armed jump can be led elsewhere by one write."""

    @property
    def overwritten(self) -> range:
        """Addresses of the code that the jump overwrites."""
        return range(self.jump, self.jump + len(self.original))

    @property
    def entries(self) -> range:
        """Addresses that mean the function's start to a displaced branch."""
        return range(self.start if self.kept else self.address, self.start + 1)

    @property
    def moves_call(self) -> bool:
        """Whether a call is displaced: its return would fault in a thread with a shadow stack."""
        return any(move.kind == CALL for move in self.displaced)

    @property
    def guarded(self) -> tuple[range, ...]:
        """Ranges that no thread may be strictly inside of when the jump is written or removed.

        That is a program counter or return address beyond `start` and below `stop`. (A thread at
        an island's first byte would run padding once that is back, so its range begins earlier.)
        """
        jump = range(self.start, self.overwritten.stop)
        if self.island is None:
            return (jump,)
        return (jump, range(self.island.address - 1, self.island.end))

    @property
    def claims(self) -> tuple[range, ...]:
        """Ranges that belong to this entry while it is armed, padding included."""
        island = self.island
        return (self.overwritten,) + ((range(island.address, island.end),) if island else ())

    def arm_writes(self, target: int) -> tuple[Write, ...]:
        """Return the writes, in order, that lead the entry to `target` (a gate)."""
        writes: list[Write] = []
        if self.island is None:
            jump = machine.jump(self.jump, target)
        else:
            jump = machine.short_jump(self.jump, self.island.address)
            there = machine.jump(self.island.address, target)
            writes += _changes(self.island.address, self.island.data, there)
        return (*writes, *_changes(self.jump, self.original, jump))

    def disarm_writes(self) -> tuple[Write, ...]:
        """Return the writes, in order, that put the original bytes back."""
        writes = _pages(self.jump, self.original)
        if self.island is not None:
            writes += _pages(*self.island)
        return tuple(writes)

    def retarget_writes(self, target: int) -> tuple[Write, ...]:
        """Return the one write that leads the armed entry to `target` instead.

        Only for `retargetable` entries; where instructions are kept, `target` must be a gate.
        """
        if not self.retargetable:
            raise ValueError(f"the jump of {self.name} crosses a page boundary")
        place = self.jump if self.island is None else self.island.address
        return (Write(place + 1, machine.jump(place, target)[1:]),)


class _Unsuitable(Exception):
    """Why a site can't take the jump."""


def plan_entry(function: Function, claimed: Iterable[range] = ()) -> Entry:
    """Plan the redirection of one function; Refused where no jump can be put into it.

    `claimed` are ranges of padding that other entries use.
    """
    if not function.code:
        raise _refusal(function, "the size of its code is not known")
    padding = Padding(function, claimed)
    reasons = []
    for site in sites(function, padding):
        try:
            return _plan_site(function, site, padding)
        except (_Unsuitable, Unmovable) as error:
            reasons.append(str(error))
    raise _refusal(function, reasons[0])


def plan_entries(functions: Iterable[Function]) -> list[Entry]:
    """Plan many entries, no two of which use the same padding."""
    claimed: list[range] = []
    entries = []
    for function in functions:
        entry = plan_entry(function, claimed)
        claimed += entry.claims
        entries.append(entry)
    return entries


def chained_entry(name: str, address: int, code: bytes, previous: int) -> Entry:
    """Return the entry of a function whose bytes, now `code`, lead to the gate `previous`.

    Its old path is that gate. `code` is the whole function, and no less than 32 bytes where that
    is shorter: the jump may lie in the padding. Refused where the bytes lead elsewhere.
    """
    kept: list[Instruction] = []
    for instruction in decode(code[: 2 * WINDOW], address):
        if instruction.target is not None and instruction.flow == JUMP:
            entry = _chain(name, address, instruction, tuple(kept), previous)
            return entry._replace(reentries=_reentries(address, code, instruction))
        kept.append(instruction)
        if undo(kept) is None:
            break
    raise Refused(
        f"{name} at {address:#x} no longer leads to the patch applied before",
        "another tool has changed it; see hotpatch list",
        function=name,
    )


def _chain(
    name: str, address: int, jump: Instruction, kept: tuple[Instruction, ...], previous: int
) -> Entry:
    kept = kept if undo(kept) else ()
    island = None
    if len(jump.data) == SHORT_JUMP_SIZE:
        place, original = jump.address, jump.data
        assert jump.target is not None
        island = Stretch(jump.target, machine.jump(jump.target, previous))
        written = range(island.address, island.end)
    else:
        place = jump.end - JUMP_SIZE
        original = jump.data[-JUMP_SIZE:]
        written = range(place, jump.end)
    if original != machine.jump(place, previous) and island is None:
        reason = f"{name} at {address:#x} leads to {jump.target:#x}, not to its gate"
        raise Refused(reason, "another tool has changed it; see hotpatch list", function=name)
    if crosses_page(written.start + 1, written.stop):  # the opcode stays
        reason = f"the jump of {name} crosses a page boundary and can't be led to another gate"
        raise Refused(reason, "revert the patch applied before first", function=name)
    return Entry(name, address, jump.address, place, original, (), previous, kept, island)


def _reentries(address: int, code: bytes, jump: Instruction) -> tuple[int, ...]:
    targets, behind = range(address, jump.address + 1), jump.end - address
    return tuple(possible_branches_to(code[behind:], jump.end, targets))


def _refusal(function: Function, reason: str) -> Refused:
    return Refused(
        f"{function.name} at {function.address:#x} can't be redirected: {reason}",
        "replace the functions that call it instead",
        function=function.name,
    )


def _plan_site(function: Function, site: Site, padding: Padding) -> Entry:
    body = function.code
    if site.end > function.end:
        body += padding.behind[:WINDOW]
    offset = site.jump - function.address
    if site.end > function.address + len(body):
        raise _Unsuitable("it is shorter than a jump and no padding follows it")
    instructions = _displaced(function, site, body)
    if not _neutral(function, site, instructions, body):
        raise _Unsuitable("its first bytes cross a page boundary, no other place takes the jump")
    moves = plan_displaced(instructions, site.start, site.end)
    reentries = _check_branches(function, site)
    last = instructions[-1]
    return Entry(
        function.name,
        function.address,
        site.start,
        site.jump,
        body[offset : offset + site.size],
        moves,
        None if last.ends_block else last.end,
        site.kept,
        site.island,
        reentries,
        site.island is not None or not crosses_page(site.jump + 1, site.end),
    )


def _displaced(function: Function, site: Site, body: bytes) -> list[Instruction]:
    """Return the instructions that the jump covers, or as many as are ever run."""
    offset, instructions = site.start - function.address, []
    for instruction in decode(body[offset : offset + WINDOW], site.start):
        if instruction.address >= function.end and instruction.mnemonic != "nop":
            break
        instructions.append(instruction)
        if instruction.end >= site.end or instruction.ends_block:
            return instructions
    at = instructions[-1].end if instructions else site.start
    shown = body[at - function.address :][:15].hex(" ")
    raise _Unsuitable(f"the bytes at {at:#x} are no known instruction: {shown}")


def _neutral(
    function: Function, site: Site, instructions: Sequence[Instruction], body: bytes
) -> bool:
    """Return whether the jump can be written page by page, the function working all the while."""
    if not crosses_page(site.jump, site.end):
        return True
    boundary = site.end & -PAGE_SIZE
    if function.end <= boundary and instructions[-1].ends_block:
        return True  # the second page holds padding only, and is written first
    # The code is a jump of the same form, and its opcode alone is in the first page: only its
    # displacement is written.
    opcode = machine.jump(0, 0)[:1] if site.island is None else machine.short_jump(0, 0)[:1]
    return boundary == site.jump + 1 and body[site.jump - function.address :][:1] == opcode


def _check_branches(function: Function, site: Site) -> tuple[int, ...]:
    """Raise _Unsuitable on a branch into the jump; return the places of those to the entry."""
    # Going back between kept instructions, or behind them, would have the gate undo too much.
    inside = range((function.address if site.kept else site.start) + 1, site.end)
    for label in function.labels:
        if label in inside:
            raise _Unsuitable(f"another symbol, at {label:#x}, lies where the jump would be")
    reentries = []
    targets = range(function.address, site.end)
    stretches = (Stretch(function.address, function.code), *function.fragments)
    extents = [range(stretch.address, stretch.end) for stretch in stretches]
    for stretch in stretches:
        for branch in branches_to(stretch.data, stretch.address, targets, inside.start):
            if branch.target in inside:
                raise _Unsuitable(f"it branches into the bytes that the jump needs: {branch}")
            if not site.start <= branch.address < site.end:
                reentries.append(branch.address)
        tables = table_targets(stretch.data, stretch.address, targets, extents, function.read)
        for place, target in tables:
            if target in inside:
                raise _Unsuitable(f"a table, at {place:#x}, leads into the bytes of the jump")
            reentries.append(place)
    return tuple(reentries)


def _pages(address: int, data: bytes) -> list[Write]:
    """Cut a write at the page boundary."""
    cut = -address % PAGE_SIZE
    if not 0 < cut < len(data):
        return [Write(address, data)]
    return [Write(address, data[:cut]), Write(address + cut, data[cut:])]


def _changes(address: int, old: bytes, new: bytes) -> list[Write]:
    """Return the writes that turn `old` into `new`, the last page first."""
    pairs = zip(_pages(address, old), _pages(address, new), strict=True)
    return [after for before, after in pairs if before != after][::-1]

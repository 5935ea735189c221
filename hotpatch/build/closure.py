# SPDX-License-Identifier: GPL-2.0-or-later
"""Closure: from what a diff changed to all that a patch has to hold, each with its reason.

After the update the target is to behave as a program that was built of the new source: every
function is either one that did not change, or replaced. So what refers to changed data is replaced
with it, and the pieces into which the compiler cut a function (NAME.cold) stay together. What did
not change is the target's own: its functions, its variables with what they hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.build.atoms import CODE, CONSTANT, THREAD, Atom
from hotpatch.build.binary import Binary
from hotpatch.build.difference import Difference
from hotpatch.build.match import Match
from hotpatch.build.objects import Object, Reference
from hotpatch.build.unwinding import unwinding
from hotpatch.elf import constants as c

CHANGED, NEW = "its code changed", "it is new"


class Unit(NamedTuple):
    """One source file: what changed in it, and where the old of it lies in the target."""

    name: str
    difference: Difference
    match: Match
    types: dict[str, list[str]]
    """The types that changed, and how."""

    @property
    def new(self) -> Object:
        """Return the new object."""
        return self.difference.new

    def old_atom(self, atom: Atom) -> Atom | None:
        """Return what a new atom was before, None for what is new."""
        number = self.difference.pairs.old_of.get(atom.number)
        return None if number is None else self.difference.old.atoms[number]

    def old_address(self, old: Atom) -> int | None:
        """Return where an old atom lies in the target, None where that is not known."""
        for symbol in old.symbols:
            run = self.match.object.by_name.get(symbol.name)
            if run is not None and (run.kind == CODE) == (old.kind == CODE):
                return self.match.address(run)
        return None

    def verified(self, old: Atom) -> bool:
        """Tell whether the code of an old function was found in the target, byte for byte."""
        run = next((r for s in old.symbols if (r := self.match.object.by_name.get(s.name))), None)
        return run is not None and self.match.placed(run.section)


Key = tuple[int, int]
"""An atom of the patch: the number of its unit, and its own."""


class Place(NamedTuple):
    """Something of the target's: `address` is virtual; of thread-local data, in its block."""

    name: str
    address: int
    thread: bool = False


BLOCK = Place("thread-local", 0, thread=True)
"""All the thread-local variables of the target: offsets count from there."""

Meaning = Key | Place | str
"""What a reference in a patch means: an atom of it, the target's, or a library's by its name."""


class Closure:
    """What goes into a patch: `reasons` by atom, in the order in which it was found."""

    def __init__(self, units: list[Unit], binary: Binary, keep: frozenset[str]) -> None:
        """Start with nothing; `keep` are variables whose changed initial value is left out."""
        self.units = units
        self.reasons: dict[Key, str] = {}
        self.lost: dict[str, str] = {}
        """Variables of the target that are needed and can't be found, with who needs them."""
        self._binary = binary
        self._keep = keep
        self._changed = [{a.number for a in unit.difference.changed} for unit in units]
        self._together = [_together(unit.new) for unit in units]
        self._global = {
            symbol.name: (index, atom.number)
            for index, unit in reversed(list(enumerate(units)))
            for atom in unit.new.atoms
            for symbol in atom.symbols
            if symbol.bind != c.STB_LOCAL
        }

    @property
    def exported(self) -> frozenset[str]:
        """The names by which others may refer to what the target defines."""
        return self._binary.exported

    def add(self, key: Key, reason: str) -> None:
        """Take an atom, with all that has to come with it."""
        stack = [(key, reason)]
        while stack:
            key, reason = stack.pop()
            key = self._one(key)
            if key in self.reasons:
                continue
            self.reasons[key] = reason
            index, number = key
            obj, atom = self.units[index].new, self.atom(key)
            parts = self._together[index][number]
            for reference in self.references(key):
                if reference.literal is not None:
                    continue
                meaning = self.meaning(index, reference)
                if isinstance(meaning, tuple) and not isinstance(meaning, Place):
                    stack.append((meaning, self._why(meaning, atom, obj)))
            stack += [((index, other), f"a part of {self.name(key)}") for other in parts]

    def atom(self, key: Key) -> Atom:
        """Return the atom of a key."""
        return self.units[key[0]].new.atoms[key[1]]

    def name(self, key: Key) -> str:
        """Return the name of an atom, or of the section of one that has none."""
        atom = self.atom(key)
        return atom.name or atom.section.name

    def references(self, key: Key) -> Iterator[Reference]:
        """Yield all that an atom refers to, its unwinding information included."""
        obj, atom = self.units[key[0]].new, self.atom(key)
        yield from obj.references(atom)
        if atom.kind == CODE:
            for entry in unwinding(obj).of(atom.number):
                yield from entry.references

    def meaning(self, index: int, reference: Reference) -> Meaning:
        """Return what a reference from the unit `index` is bound to."""
        if reference.literal is not None:
            raise ValueError("a literal is bound to itself")
        if reference.atom is None:
            return self._outside(reference)
        key = index, reference.atom
        return self._inside(self._one(key), reference)

    def replaces(self, key: Key) -> Atom | None:
        """Return the old function that an atom of the patch takes the place of."""
        unit, atom = self.units[key[0]], self.atom(key)
        if atom.kind != CODE or is_part(atom):
            return None
        return unit.old_atom(atom) if self.touched(key) else None

    def touched(self, key: Key) -> bool:
        """Tell whether an atom is here because it is another now, not as a copy."""
        return not self.reasons.get(key, "").startswith("a copy")

    def _one(self, key: Key) -> Key:
        """Return the one atom among those of several units that are linked into one (COMDAT)."""
        atom = self.atom(key)
        if atom.symbols and atom.symbols[0].bind != c.STB_LOCAL:
            return self._global.get(atom.symbols[0].name, key)
        return key

    def _outside(self, reference: Reference) -> Meaning:
        """Return what a symbol means that the unit itself does not define."""
        name = reference.symbol.name
        if name == "_TLS_MODULE_BASE_":
            return BLOCK
        if name in self._global:
            return self._inside(self._global[name], reference)
        if name in self._binary.imported:
            return name
        for symbol in self._binary.symbols.get(name, ()):
            if symbol.bind != c.STB_LOCAL or symbol.visibility == c.STV_HIDDEN or not symbol.file:
                return Place(name, symbol.value, symbol.type == c.STT_TLS)
        for unit in self.units:
            if name in unit.match.named:
                return Place(name, unit.match.named[name], reference.symbol.type == c.STT_TLS)
        return name

    def _inside(self, key: Key, reference: Reference) -> Meaning:
        index, number = key
        unit, atom = self.units[index], self.atom(key)
        old = unit.old_atom(atom)
        if old is None or not atom.symbols or (atom.name or "").startswith("DW.ref."):
            return key
        if atom.kind == CODE:
            # A pointer to a function stays what it was: they are compared, and outlive a revert.
            if reference.branch and (key in self.reasons or number in self._changed[index]):
                return key
            if is_part(atom) or not reference.entry:
                return key
        elif atom.kind == CONSTANT and number in self._changed[index]:
            return key if atom.name not in self._keep else self._old(key, old)
        return self._old(key, old)

    def _old(self, key: Key, old: Atom) -> Meaning:
        unit, atom = self.units[key[0]], self.atom(key)
        address = unit.old_address(old)
        if address is not None:
            return Place(atom.name or "", address, atom.kind == THREAD)
        if atom.kind not in (CODE, CONSTANT):
            self.lost.setdefault(atom.name or "", unit.name)
        return key

    def _why(self, key: Key, user: Atom, obj: Object) -> str:
        unit, atom = self.units[key[0]], self.atom(key)
        if unit.old_atom(atom) is None:
            return f"{NEW}, and used by {user.name or user.section.name}"
        if atom.number in self._changed[key[0]]:
            return CHANGED if atom.kind == CODE else "it changed"
        return f"a copy, used by {user.name or user.section.name}"


def is_part(atom: Atom) -> bool:
    """Tell whether an atom is the rarely run piece of a function, and no function itself."""
    name = atom.name or ""
    return atom.kind == CODE and (name.endswith(".cold") or ".cold." in name)


def _together(obj: Object) -> dict[int, set[int]]:
    """Return the pieces of code that jump into the middle of each other."""
    found: dict[int, set[int]] = defaultdict(set)
    for atom in obj.atoms:
        if atom.kind != CODE:
            continue
        for reference in obj.references(atom):
            other = reference.atom
            if other in (None, atom.number) or obj.atoms[other].kind != CODE:
                continue
            if not reference.entry or is_part(obj.atoms[other]):
                found[atom.number].add(other)
                found[other].add(atom.number)
    return found


def users_of(obj: Object, number: int) -> list[Atom]:
    """Return the named atoms that refer to an atom, directly or through ones without a name."""
    found: dict[int, Atom] = {}
    wanted, seen = [number], {number}
    while wanted:
        target = wanted.pop()
        for atom in obj.atoms:
            if any(reference.atom == target for reference in obj.references(atom)):
                if atom.symbols:
                    found[atom.number] = atom
                elif atom.number not in seen:
                    seen.add(atom.number)
                    wanted.append(atom.number)
    return list(found.values())

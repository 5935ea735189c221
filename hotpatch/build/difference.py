# SPDX-License-Identifier: GPL-2.0-or-later
"""Pre-post differencing: what differs between two objects made of two versions of a source file.

Two functions are the same if their bytes are, but for the fields of relocations, and each field
refers to the same thing (Arnold and Kaashoek, "Ksplice: Automatic Rebootless Kernel Updates",
EuroSys 2009, section 3). Strings and unnamed constants are the same if their content is.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.build.atoms import CODE, Atom
from hotpatch.build.correlate import Pairs, pair
from hotpatch.build.lines import Lines, only_lines_differ
from hotpatch.build.objects import Object, Reference


class Difference(NamedTuple):
    """What two objects differ in; atoms are those of the new object, `removed` of the old."""

    old: Object
    new: Object
    pairs: Pairs
    changed: tuple[Atom, ...]
    """Functions and data that both have, with another content."""
    added: tuple[Atom, ...]
    """Those with a name that only the new one has."""
    removed: tuple[Atom, ...]
    moved: tuple[Atom, ...]
    """Functions that differ only in line numbers of their own source (__LINE__, assert)."""


def difference(old: Object, new: Object, lines: tuple[Lines, Lines] | None = None) -> Difference:
    """Compare two objects; `lines` tells line numbers in code from other numbers."""
    pairs = pair(old, new)
    meanings = _Meanings(old, new, pairs)
    changed: list[Atom] = []
    added: list[Atom] = []
    moved: list[Atom] = []
    for atom in new.atoms:
        twin = pairs.old_of.get(atom.number)
        if twin is None:
            if atom.symbols:
                added.append(atom)
        elif not meanings.same(old.atoms[twin], atom):
            noise = meanings.same_references(old.atoms[twin], atom) and only_lines_differ(
                (old, old.atoms[twin]), (new, atom), lines
            )
            (moved if noise else changed).append(atom)
    removed = [a for a in old.atoms if a.symbols and a.number not in pairs.new_of]
    return Difference(old, new, pairs, *map(tuple, (changed, added, removed, moved)))


def masked(obj: Object, atom: Atom) -> bytes:
    """Return the content of an atom with zeros in the fields of its relocations."""
    data = bytearray(obj.data(atom))
    for reference in obj.references(atom):
        size = r.field_size(reference.type)
        data[reference.offset : reference.offset + size] = bytes(size)
    return bytes(data[: atom.size])


class _Meanings:
    """What references mean, so that those of two objects are equal where they mean the same."""

    def __init__(self, old: Object, new: Object, pairs: Pairs) -> None:
        self._old = old
        self._new = new
        self._pairs = pairs
        self._contents: dict[tuple[bool, int], Hashable] = {}

    def same(self, old: Atom, new: Atom) -> bool:
        return (
            old.size == new.size
            and _kind(old) == _kind(new)
            and masked(self._old, old) == masked(self._new, new)
            and self.same_references(old, new)
        )

    def same_references(self, old: Atom, new: Atom) -> bool:
        first, second = self._old.references(old), self._new.references(new)
        return len(first) == len(second) and all(
            self._meaning(self._old, a, False) == self._meaning(self._new, b, True)
            for a, b in zip(first, second, strict=True)
        )

    def _meaning(self, obj: Object, reference: Reference, new: bool) -> Hashable:
        offset, kind, symbol, delta, number, literal, branch, _ = reference
        how = offset, r.R_X86_64_PLT32 if branch else kind, delta
        if literal is not None:
            return how, literal
        if number is None:
            return how, symbol.name
        atom = obj.atoms[number]
        if not atom.symbols:
            return how, self._content(obj, atom, new)
        old = self._pairs.old_of.get(number) if new else number
        return how, ("new", atom.name) if old is None else old

    def _content(self, obj: Object, atom: Atom, new: bool) -> Hashable:
        """Return the content of an atom without a name, such as a jump table."""
        key = new, atom.number
        if key not in self._contents:
            self._contents[key] = "itself"  # where it refers to itself
            references = (self._meaning(obj, each, new) for each in obj.references(atom))
            self._contents[key] = (masked(obj, atom), *references)
        return self._contents[key]


def _kind(atom: Atom) -> bool:
    return atom.kind == CODE

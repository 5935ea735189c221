# SPDX-License-Identifier: GPL-2.0-or-later
"""Which function or variable of one object is which of another: `Pairs`.

Names decide. Only those of statics within functions, which compilers number through a file
(`calls.0`), are told apart by who refers to them: numbers move when one is added.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

from hotpatch.build.atoms import CODE, Atom
from hotpatch.build.objects import Object

_NUMBERED = re.compile(r"(.+)\.(?:lto_priv\.)?\d+")


class Pairs(NamedTuple):
    """What two objects have in common: atom numbers by atom numbers."""

    old_of: dict[int, int]
    """For each atom of the new object that the old one has too."""
    new_of: dict[int, int]
    doubtful: tuple[str, ...]
    """Names that stand for several variables, of which it can't be told which is which."""


def pair(old: Object, new: Object) -> Pairs:
    """Correlate the atoms of two objects that were made of two versions of one source file."""
    old_of: dict[int, int] = {}
    rest: dict[str, tuple[list[Atom], list[Atom]]] = defaultdict(lambda: ([], []))
    for atom in new.atoms:
        twin = next((old.by_name[s.name] for s in atom.symbols if s.name in old.by_name), None)
        if atom.name and _base(atom):
            rest[_base(atom)][1].append(atom)
        elif twin and (twin.kind == CODE) == (atom.kind == CODE):
            old_of[atom.number] = twin.number
    for atom in old.atoms:
        if _base(atom):
            rest[_base(atom)][0].append(atom)
    users = _Users(old), _Users(new)
    doubtful = [base for base, both in rest.items() if not _match(*both, users, old_of)]
    return Pairs(old_of, {new: old for old, new in old_of.items()}, tuple(sorted(doubtful)))


class _Users:
    """Who refers to the numbered statics of an object: the names of functions."""

    def __init__(self, obj: Object) -> None:
        found: dict[int, set[str]] = defaultdict(set)
        for atom in obj.atoms:
            for reference in obj.references(atom):
                if reference.atom is not None and _base(obj.atoms[reference.atom]):
                    found[reference.atom].add(_source_name(atom))
        self._found = found

    def of(self, atom: Atom) -> frozenset[str]:
        return frozenset(self._found[atom.number])


def _match(
    old: list[Atom], new: list[Atom], users: tuple[_Users, _Users], old_of: dict[int, int]
) -> bool:
    """Pair statics of one name; return whether no doubt is left about any."""
    left, right = list(old), list(new)
    for atom in new:
        candidates = [o for o in left if users[0].of(o) == users[1].of(atom)]
        rivals = [n for n in right if users[1].of(n) == users[1].of(atom)]
        if candidates and len(candidates) == len(rivals):
            # Several of one function: compilers write them in one order.
            first = candidates[rivals.index(atom)]
            old_of[atom.number] = first.number
            left.remove(first)
            right.remove(atom)
    if len(left) == len(right) == 1:
        old_of[right[0].number] = left[0].number
        return True
    return not (left and right)


def _base(atom: Atom) -> str:
    """Return the name in the source of a numbered static, "" for others."""
    if atom.kind == CODE or not atom.name or not atom.local:
        return ""
    found = _NUMBERED.fullmatch(atom.name)
    return found[1] if found else ""


def _source_name(atom: Atom) -> str:
    """Return a name in which the parts and clones of a function are that function."""
    return (atom.name or "").partition(".")[0]

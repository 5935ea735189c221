# SPDX-License-Identifier: GPL-2.0-or-later
"""Con-freeness: no old code still to run works on a type that changed (`users_left`).

Debug information names the variables and parameters of a function, not what it does with them. So
a function counts as one that uses a type if a variable or a parameter of it, or of a function
inlined in it, is of that type, or points to it, or has it within. A function that gets at an object
by another way (`a->b->c` with no variable for `b`) is not seen, and one that only hands a
pointer on is seen without need: for that there is HOTPATCH_UNAFFECTED.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.abbreviations import Value
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.names import Names, tag_of
from hotpatch.dwarf.tree import Entry, children, top_level
from hotpatch.dwarf.types import ARRAY, COMPOUND, POINTER, QUALIFIERS, TYPEDEF, Ref
from hotpatch.dwarf.units import Unit
from hotpatch.link.scope import same_file
from hotpatch.patch.manifest import TypeChange

if TYPE_CHECKING:
    from hotpatch.audit.types import Replaced
    from hotpatch.patch.file import PatchFile

_SUBPROGRAMS = frozenset((c.DW_TAG_subprogram,))
_VARIABLES = (c.DW_TAG_variable, c.DW_TAG_formal_parameter)
_SCOPES = (c.DW_TAG_lexical_block, c.DW_TAG_inlined_subroutine)
_DEEPEST = 24
_MOST_NAMES = 12


def users_left(
    names: Names, changes: Sequence[TypeChange], patch: PatchFile, replaced: Sequence[Replaced]
) -> list[str]:
    """Return a sentence for each changed type that functions use which are not replaced."""
    gone = {(r.replacement.name, r.replacement.file) for r in replaced}
    spared = {(u.name, u.file) for u in patch.unaffected}
    problems = []
    for change in changes:
        found = {
            (function, file)
            for function, file in _Users(names, change.target).functions()
            if not is_listed(function, file, gone) and not is_listed(function, file, spared)
        }
        if found:
            problems.append(
                f"`{change.target}` changes, and old code would go on with it as it was: "
                f"{listing(found)}; replace them, or declare "
                "HOTPATCH_UNAFFECTED for those that only hand it on"
            )
    return problems


def listing(found: set[tuple[str, str]]) -> str:
    """Return functions and their source files in words."""
    texts = [f"{function} ({file})" for function, file in sorted(found)]
    more = f" and {len(texts) - _MOST_NAMES} more" if len(texts) > _MOST_NAMES else ""
    return f"{', '.join(texts[:_MOST_NAMES])}{more}"


def is_listed(function: str, file: str, known: set[tuple[str, str | None]]) -> bool:
    """Tell whether a function is among those named, of whose files some may not be said."""
    return any(
        name == function and (source is None or same_file(file, source)) for name, source in known
    )


class _Users:
    """Finds the functions with code that have variables of a type."""

    def __init__(self, names: Names, target: str) -> None:
        self._names = names
        self._types = names.types
        self._target = target
        self._known: dict[Ref, bool] = {}

    def functions(self) -> Iterator[tuple[str, str]]:
        """Yield name and source file of each."""
        units = {
            self._types.units.containing(ref).header.offset
            for ref in self._names.definitions(self._target)
        }
        for offset in sorted(units):
            unit = self._types.units.at(offset)
            file = unit.string(unit.root.get(c.DW_AT_name))
            for at, _, name in top_level(unit, _SUBPROGRAMS):
                _, values = unit.entry(at)
                has_code = c.DW_AT_low_pc in values or c.DW_AT_ranges in values
                if has_code and self._uses(unit, at, 0):
                    yield name or self._types.units.name(unit, at), file

    def _uses(self, unit: Unit, offset: int, depth: int) -> bool:
        if depth > _DEEPEST:
            return False
        for entry in children(unit, offset):
            if entry.tag in _VARIABLES and self._variable(unit, entry):
                return True
            if entry.tag in _SCOPES and self._uses(unit, entry.offset, depth + 1):
                return True
        return False

    def _variable(self, unit: Unit, entry: Entry) -> bool:
        values: dict[int, Value] = entry.values
        if c.DW_AT_type not in values and (origin := values.get(c.DW_AT_abstract_origin)):
            other = self._types.units.refer(unit, origin)
            if other is None:
                return False
            unit, values = other[0], other[0].entry(other[1])[1]
        try:
            return self._involves(self._types.reference(unit, values), 0)
        except DwarfError:
            return False

    def _involves(self, ref: Ref | None, depth: int) -> bool:
        """Tell whether a type is the changed one, points to it, or has it within."""
        if ref is None or depth > _DEEPEST:
            return False
        if ref not in self._known:
            self._known[ref] = False  # for a type that leads to itself
            self._known[ref] = self._is_or_has(ref, depth)
        return self._known[ref]

    def _is_or_has(self, ref: Ref, depth: int) -> bool:
        found = self._types.get(ref)
        if tag_of(found) == self._target:
            return True
        if found.kind in (POINTER, ARRAY, TYPEDEF, *QUALIFIERS):
            return self._involves(found.target, depth + 1)
        if found.kind in COMPOUND:
            return any(self._within(member.type, depth) for member in found.members)
        return False

    def _within(self, ref: Ref | None, depth: int) -> bool:
        """Tell whether a member is, by its value, of the changed type; a pointer is not."""
        below, found = self._types.stripped(ref)
        if found is None or found.kind == POINTER:
            return False
        return self._involves(below, depth + 1)

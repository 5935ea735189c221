# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of a unit as the tree that they are (DWARF 5, 2.3): `children`, `top_level`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.abbreviations import Abbreviation, Value
from hotpatch.dwarf.cursor import Cursor, DwarfError
from hotpatch.dwarf.units import Unit


class Entry(NamedTuple):
    """An entry: `offset` in its unit, tag and attributes."""

    offset: int
    tag: int
    values: dict[int, Value]


def children(unit: Unit, offset: int) -> Iterator[Entry]:
    """Yield what is directly within the entry at `offset`; raises DwarfError."""
    cursor = Cursor(unit.data, 0, offset)
    abbreviation = _next(unit, cursor)
    if abbreviation is None:
        raise DwarfError(f"there is no entry at {offset:#x} of a unit")
    abbreviation.skip(cursor)
    if not abbreviation.children:
        return
    while True:
        at = cursor.at
        abbreviation = _next(unit, cursor)
        if abbreviation is None:
            return
        yield Entry(at, abbreviation.tag, abbreviation.values(cursor, unit.layout))
        if abbreviation.children:
            _pass_children(unit, cursor, abbreviation)


def top_level(unit: Unit, wanted: frozenset[int]) -> Iterator[tuple[int, int, str]]:
    """Yield offset, tag and name of what is directly within a unit, of the `wanted` tags.

    What is in namespaces is there too, under its full name: `space::name`.
    """
    cursor = Cursor(unit.data, 0, unit.header.first)
    abbreviation = _next(unit, cursor)
    if abbreviation is None or not abbreviation.children:
        return
    abbreviation.skip(cursor)
    prefixes = [""]
    while prefixes:
        at = cursor.at
        abbreviation = _next(unit, cursor)
        if abbreviation is None:
            prefixes.pop()
            continue
        if abbreviation.tag in wanted:
            values = abbreviation.values(cursor, unit.layout)
            name = unit.string(values.get(c.DW_AT_name))
            yield at, abbreviation.tag, prefixes[-1] + name if name else ""
        elif abbreviation.tag == c.DW_TAG_namespace and abbreviation.children:
            values = abbreviation.values(cursor, unit.layout)
            prefixes.append(f"{prefixes[-1]}{unit.string(values.get(c.DW_AT_name))}::")
            continue
        elif abbreviation.size is not None:
            cursor.at += abbreviation.size
        else:
            abbreviation.skip(cursor)
        if abbreviation.children:
            _pass_children(unit, cursor, abbreviation)


def _next(unit: Unit, cursor: Cursor) -> Abbreviation | None:
    """Return the abbreviation of the entry at a cursor, None for the end of a list."""
    if cursor.at >= cursor.end:
        raise DwarfError("a unit ends within its entries")
    code = cursor.uleb128()
    if not code:
        return None
    found = unit.abbreviations.get(code)
    if found is None:
        raise DwarfError(f"an entry of the unknown abbreviation {code}")
    return found


def _pass_children(unit: Unit, cursor: Cursor, abbreviation: Abbreviation) -> None:
    """Pass over all that is within the entry whose attributes a cursor has just passed."""
    depth = 1
    while depth:
        if abbreviation.sibling and abbreviation.children:
            cursor.at -= 4
            sibling = cursor.u4()
            if not cursor.at <= sibling <= cursor.end:
                raise DwarfError("an entry whose sibling is not behind it")
            cursor.at = sibling
            depth -= 1
            if not depth:
                return
        following = _next(unit, cursor)
        if following is None:
            depth -= 1
            abbreviation = _NONE
            continue
        abbreviation = following
        if abbreviation.size is not None:
            cursor.at += abbreviation.size
        else:
            abbreviation.skip(cursor)
        depth += abbreviation.children


_NONE = Abbreviation(0, False, (), 0, (), False)

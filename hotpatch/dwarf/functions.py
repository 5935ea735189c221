# SPDX-License-Identifier: GPL-2.0-or-later
"""The functions of a unit and the copies inlined in them, by address: `Functions`.

All entries of the unit are passed once (DWARF 5, 2.3). What stands in the entry of a function or of
an inlined copy (DW_TAG_subprogram, DW_TAG_inlined_subroutine) is kept when it has code; of all
others only their size matters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import Cursor, DwarfError
from hotpatch.dwarf.ranges import Range, UnitRanges
from hotpatch.dwarf.units import Unit

_WITH_CODE = frozenset((c.DW_TAG_subprogram, c.DW_TAG_inlined_subroutine))
_NO_CODE_WITHIN = frozenset((
    c.DW_TAG_array_type, c.DW_TAG_enumeration_type, c.DW_TAG_subroutine_type, c.DW_TAG_call_site,
    c.DW_TAG_GNU_call_site,
))  # fmt: skip
_STRUCTURES = frozenset((c.DW_TAG_structure_type, c.DW_TAG_union_type))
_C = frozenset((
    c.DW_LANG_C89, c.DW_LANG_C, c.DW_LANG_C99, c.DW_LANG_C11, c.DW_LANG_C17,
    c.DW_LANG_Mips_Assembler,
))  # fmt: skip


class Function(NamedTuple):
    """A function, or an inlined copy of one."""

    offset: int
    """Of its entry, in the unit."""
    depth: int
    """How many entries it is within."""
    inlined: bool
    code: tuple[Range, ...]
    call_file: int
    """Where the copy would be called: a number in the list of files of the line number program."""
    call_line: int

    def covers(self, pc: int) -> bool:
        """Whether an address is in its code."""
        return any(start <= pc < end for start, end in self.code)


class Functions:
    """The functions of one unit."""

    def __init__(self, unit: Unit) -> None:
        """Pass through the unit; raises DwarfError where it is damaged."""
        self._all = list(_functions(unit))
        ranges = [
            (start, end, number)
            for number, function in enumerate(self._all)
            if not function.inlined
            for start, end in function.code
        ]
        ranges.sort()
        self._ranges = ranges
        self._starts = [start for start, _, _ in ranges]

    def copies(self) -> Iterator[tuple[Function, Function]]:
        """Yield each inlined copy with the function that has it in its code."""
        holder: Function | None = None
        for function in self._all:
            if not function.inlined:
                holder = function
            elif holder is not None and function.depth > holder.depth:
                yield function, holder

    def at(self, pc: int) -> list[Function]:
        """Return the function that has an address and the copies in it, innermost first."""
        at = bisect_right(self._starts, pc) - 1
        if at < 0 or pc >= self._ranges[at][1]:
            return []
        number = self._ranges[at][2]
        chain = [self._all[number]]
        for function in self._all[number + 1 :]:
            if function.depth <= chain[0].depth:
                break
            if function.inlined and function.covers(pc):
                chain.append(function)
        return chain[::-1]


def _functions(unit: Unit) -> Iterator[Function]:
    """Return the functions and copies with code, each before those within it."""
    ranges, layout = UnitRanges(unit), unit.layout
    closed = _NO_CODE_WITHIN
    if unit.number(unit.root, c.DW_AT_language) in _C:
        closed |= _STRUCTURES
    cursor, depth = Cursor(unit.data, 0, unit.header.first), 0
    while cursor.at < cursor.end:
        offset, code = cursor.at, cursor.uleb128()
        if not code:
            depth -= 1
            if depth <= 0:
                return
            continue
        abbreviation = unit.abbreviations.get(code)
        if abbreviation is None:
            raise DwarfError(f"an entry of the unknown abbreviation {code}")
        if abbreviation.tag in _WITH_CODE:
            values = abbreviation.values(cursor, layout)
            if found := ranges.of(values):
                yield Function(
                    offset,
                    depth,
                    abbreviation.tag == c.DW_TAG_inlined_subroutine,
                    found,
                    unit.number(values, c.DW_AT_call_file) or 0,
                    unit.number(values, c.DW_AT_call_line) or 0,
                )
        elif abbreviation.size is not None:
            cursor.at += abbreviation.size
        else:
            abbreviation.skip(cursor)
        if abbreviation.children:
            if abbreviation.sibling and abbreviation.tag in closed and cursor.at <= cursor.end:
                _pass_children(cursor)
            else:
                depth += 1


def _pass_children(cursor: Cursor) -> None:
    """Go on with the sibling, whose offset stands in the 4 bytes before the cursor."""
    cursor.at -= 4
    sibling = cursor.u4()
    if sibling < cursor.at:
        raise DwarfError("an entry whose sibling comes before it")
    cursor.at = sibling

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which code an entry of .debug_info is about: DW_AT_low_pc, DW_AT_high_pc and DW_AT_ranges.

A list of ranges is in .debug_ranges up to DWARF 4, in .debug_rnglists from DWARF 5 on (2.17.3,
7.25). .debug_aranges (6.1.2) has those of whole units.
"""

from __future__ import annotations

from collections.abc import Iterator

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.abbreviations import Value
from hotpatch.dwarf.cursor import ADDRESS_MASK, Cursor, DwarfError
from hotpatch.dwarf.forms import ADDRESSES
from hotpatch.dwarf.sections import DebugSection
from hotpatch.dwarf.units import Unit

Range = tuple[int, int]
"""The addresses [start, end)."""

_PIECE = 4096  # bytes of a list that are read at once
_MOST_RANGES = 1 << 20  # in the lists of one unit; where lists overlap, damage could make more


class UnitRanges:
    """The ranges of the entries of one unit."""

    def __init__(self, unit: Unit) -> None:
        """Use a unit; raises DwarfError where its own address is damaged."""
        self._unit = unit
        low = unit.root.get(c.DW_AT_low_pc)
        self._base = unit.address(low) if low else 0
        self._left = _MOST_RANGES

    def of(self, values: dict[int, Value]) -> tuple[Range, ...]:
        """Return the code of an entry with these attributes, () without any; raises DwarfError.

        What the linker dropped is left out: it was given address 0, or the highest of all.
        """
        ranges = values.get(c.DW_AT_ranges)
        if ranges is not None:
            found = list(self._limited(self._listed(ranges)))
        else:
            low, high = values.get(c.DW_AT_low_pc), values.get(c.DW_AT_high_pc)
            if low is None or high is None:
                return ()
            found = [self._contiguous(low, high)]
        return tuple((start, end) for start, end in found if 0 < start < end <= ADDRESS_MASK)

    def _contiguous(self, low: Value, high: Value) -> Range:
        """DW_AT_high_pc is an address, or the size where it is a constant (2.17.2)."""
        start = self._unit.address(low)
        form, raw = high
        if form in ADDRESSES or not isinstance(raw, int):
            return start, self._unit.address(high)
        return start, start + raw

    def _limited(self, ranges: Iterator[Range]) -> Iterator[Range]:
        for found in ranges:
            self._left -= 1
            if self._left < 0:
                raise DwarfError(f"a unit with more than {_MOST_RANGES} ranges")
            yield found

    def _listed(self, value: Value) -> Iterator[Range]:
        form, offset = value
        if not isinstance(offset, int):
            raise DwarfError(f"a list of ranges of form {form:#x}")
        unit = self._unit
        if unit.layout.version < 5:
            return _ranges(unit.sections.need(".debug_ranges"), offset, self._base)
        section = unit.sections.need(".debug_rnglists")
        if form == c.DW_FORM_rnglistx:
            base, size = unit.number(unit.root, c.DW_AT_rnglists_base), unit.offset_size
            if base is None:
                raise DwarfError("a list of ranges in a table that is not there")
            offset = base + section.number(base + offset * size, size)
        return _rnglist(section, offset, self._base, unit)


def _ranges(section: DebugSection, offset: int, base: int) -> Iterator[Range]:
    """Return the list at an offset of .debug_ranges (DWARF 4, 2.17.3)."""
    cursor = section.cursor(offset)
    while (pair := (cursor.u8(), cursor.u8())) != (0, 0):
        start, end = pair
        if start == ADDRESS_MASK:
            base = end
        else:
            yield base + start & ADDRESS_MASK, base + end & ADDRESS_MASK


def _rnglist(section: DebugSection, offset: int, base: int, unit: Unit) -> Iterator[Range]:
    """Return the list at an offset of .debug_rnglists."""
    cursor = section.cursor(offset)
    while (kind := cursor.u1()) != c.DW_RLE_end_of_list:
        if kind == c.DW_RLE_offset_pair:
            yield base + cursor.uleb128() & ADDRESS_MASK, base + cursor.uleb128() & ADDRESS_MASK
        elif kind == c.DW_RLE_base_address:
            base = cursor.u8()
        elif kind == c.DW_RLE_base_addressx:
            base = unit.indexed_address(cursor.uleb128())
        else:
            yield _single(kind, cursor, unit)


def _single(kind: int, cursor: Cursor, unit: Unit) -> Range:
    if kind == c.DW_RLE_start_end:
        return cursor.u8(), cursor.u8()
    if kind == c.DW_RLE_start_length:
        start = cursor.u8()
    elif kind == c.DW_RLE_startx_endx:
        start = unit.indexed_address(cursor.uleb128())
        return start, unit.indexed_address(cursor.uleb128())
    elif kind == c.DW_RLE_startx_length:
        start = unit.indexed_address(cursor.uleb128())
    else:
        raise DwarfError(f"a range of kind {kind:#x}")
    return start, start + cursor.uleb128() & ADDRESS_MASK

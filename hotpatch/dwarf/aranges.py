# SPDX-License-Identifier: GPL-2.0-or-later
"""Which unit an address belongs to: `UnitIndex`.

.debug_aranges (DWARF 5, 6.1.2) says so for the units that it knows: gcc writes it, clang doesn't.
Only for an address that it hasn't, the first entries of the other units are read, once.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.ranges import UnitRanges
from hotpatch.dwarf.sections import DebugSection
from hotpatch.dwarf.units import Units
from hotpatch.elf.bulk import column

_EXTENDED = 0xFFFFFFFF


class _Table(NamedTuple):
    """Ranges of code sorted by `starts`, and for each the offset of its unit in .debug_info."""

    starts: list[int]
    ends: list[int]
    units: list[int]

    def find(self, pc: int) -> int | None:
        at = bisect_right(self.starts, pc) - 1
        return self.units[at] if at >= 0 and pc < self.ends[at] else None


class UnitIndex:
    """The units of a file by the code that they are about."""

    def __init__(self, units: Units) -> None:
        """Use the units of a file; nothing is read before it is asked for."""
        self._units = units

    def find(self, pc: int) -> int | None:
        """Return the offset of the unit that has an address, None for none; raises DwarfError."""
        found = self._listed.find(pc)
        return self._scanned.find(pc) if found is None else found

    @cached_property
    def _listed(self) -> _Table:
        """What .debug_aranges says."""
        section = self._units.sections.get(".debug_aranges")
        found: list[tuple[int, int, int]] = []
        offset = 0
        while section is not None and offset < section.size:
            try:
                offset = _read_set(section, offset, found)
            except DwarfError:  # what is behind a set of a wrong length is found by the units
                break
        return _sorted(found)

    @cached_property
    def _scanned(self) -> _Table:
        """What the units say that are not in .debug_aranges; those that are damaged are left out.

        Raises DwarfError where no unit can be read.
        """
        listed, found = set(self._listed.units), list[tuple[int, int, int]]()
        for offset in self._units.offsets:
            if offset in listed:
                continue
            with contextlib.suppress(DwarfError):
                unit = self._units.glance(offset)
                found += [(*code, offset) for code in UnitRanges(unit).of(unit.root)]
        return _sorted(found)


def _sorted(found: list[tuple[int, int, int]]) -> _Table:
    found.sort()
    return _Table(*([row[field] for row in found] for field in range(3)))


def _read_set(section: DebugSection, offset: int, found: list[tuple[int, int, int]]) -> int:
    """Add the ranges of one unit; return where the next set begins."""
    cursor = section.cursor(offset)
    begin, length = cursor.at, cursor.u4()
    wide = length == _EXTENDED
    if wide:
        length = cursor.u8()
    stop = offset + cursor.at - begin + length
    if stop > section.size:
        raise DwarfError(f"a set of .debug_aranges at {offset:#x} that does not end")
    version = cursor.u2()
    unit = cursor.u8() if wide else cursor.u4()
    sizes = cursor.u1(), cursor.u1()  # of an address, of a segment selector
    if version == 2 and sizes == (8, 0):
        # Pairs of address and length, aligned to their size from the beginning of the set.
        first = offset + (cursor.at - begin + 15 & ~15)
        count = max(0, stop - first) // 16
        words = column(section.take(first, 16 * count), "Q") if count else []
        pairs = zip(words[::2], words[1::2], strict=True)
        found += [(start, start + size, unit) for start, size in pairs if start and size]
    return stop

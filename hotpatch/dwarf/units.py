# SPDX-License-Identifier: GPL-2.0-or-later
"""The units of .debug_info (DWARF 5, 7.5.1), and their entries one by one: `Units` and `Unit`.

A unit's bytes are taken out of the section as a whole when it is first asked for, and it is kept.
Offsets of entries are those from the beginning of their unit.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf import forms
from hotpatch.dwarf.abbreviations import Abbreviation, Value, read_abbreviations
from hotpatch.dwarf.cursor import Cursor, DwarfError
from hotpatch.dwarf.forms import Layout
from hotpatch.dwarf.sections import DebugSections

_LONGEST_HEADER = 32
_EXTENDED = 0xFFFFFFFF  # a length that says that the unit is in the 64-bit format
_RESERVED = 0xFFFFFFF0
_MOST_HOPS = 16  # from a copy of a function to its declaration; compilers need 3


class Header(NamedTuple):
    """A unit's header; `offset` and `size` in bytes, of the whole unit in .debug_info."""

    offset: int
    size: int
    layout: Layout
    abbreviations: int
    """Where its table is in .debug_abbrev."""
    first: int
    """Where its first entry is in the unit."""


class Unit:
    """One unit, and its entries."""

    def __init__(
        self, sections: DebugSections, header: Header, table: dict[int, Abbreviation]
    ) -> None:
        """Take the bytes of the unit; raises DwarfError."""
        self.sections = sections
        self.header = header
        self.layout = header.layout
        self.abbreviations = table
        self.data = sections.need(".debug_info").take(header.offset, header.size)

    @cached_property
    def root(self) -> dict[int, Value]:
        """The attributes of the unit itself."""
        return self.entry(self.header.first)[1]

    def entry(self, offset: int) -> tuple[int, dict[int, Value]]:
        """Return the tag and the attributes of the entry at an offset; raises DwarfError."""
        if not self.header.first <= offset < self.header.size:
            raise DwarfError(f"an entry at {offset:#x} is not in its unit")
        cursor = Cursor(self.data, 0, offset)
        abbreviation = self.abbreviations.get(cursor.uleb128())
        if abbreviation is None:
            raise DwarfError(f"there is no entry at {offset:#x} of a unit")
        return abbreviation.tag, abbreviation.values(cursor, self.layout)

    def number(self, values: dict[int, Value], name: int) -> int | None:
        """Return an attribute that is a number, None without it."""
        value = values.get(name)
        return value[1] if value is not None and isinstance(value[1], int) else None

    def string(self, value: Value | None) -> str:
        """Return an attribute that is a string, "" without it; raises DwarfError.

        Strings that are in another file (what dwz moved away) count as not there.
        """
        if value is None or value[0] not in forms.STRINGS:
            return ""
        form, raw = value
        if isinstance(raw, int):
            if form in forms.STRING_INDICES:
                raw, form = self._indexed_string(raw), c.DW_FORM_strp
            name = ".debug_line_str" if form == c.DW_FORM_line_strp else ".debug_str"
            raw = self.sections.need(name).string(raw)
        return raw.decode("utf-8", "surrogateescape")

    def _indexed_string(self, index: int) -> int:
        size = self.offset_size
        base = self.number(self.root, c.DW_AT_str_offsets_base)
        if base is None:
            base = 2 * size if self.layout.version >= 5 else 0
        return self.sections.need(".debug_str_offsets").number(base + index * size, size)

    @property
    def offset_size(self) -> int:
        """The size in bytes of an offset in a section."""
        return 8 if self.layout.wide else 4

    def address(self, value: Value) -> int:
        """Return an attribute that is an address; raises DwarfError."""
        form, raw = value
        if form not in forms.ADDRESSES or not isinstance(raw, int):
            raise DwarfError(f"an address of form {form:#x}")
        return self.indexed_address(raw) if form in forms.ADDRESS_INDICES else raw

    def indexed_address(self, index: int) -> int:
        """Return the address number `index` of the unit's part of .debug_addr."""
        for name in (c.DW_AT_addr_base, c.DW_AT_GNU_addr_base):
            base = self.number(self.root, name)
            if base is not None:
                return self.sections.need(".debug_addr").number(base + 8 * index, 8)
        raise DwarfError("an address in a table that is not there")


class Units:
    """The units of a file."""

    def __init__(self, sections: DebugSections) -> None:
        """Use the .debug_info of `sections`; nothing is read before it is asked for."""
        self.sections = sections
        self._units: dict[int, Unit] = {}
        self._tables: dict[tuple[int, Layout], dict[int, Abbreviation]] = {}

    def at(self, offset: int) -> Unit:
        """Return the unit that begins at an offset of .debug_info; raises DwarfError."""
        unit = self._units.get(offset)
        if unit is None:
            header = self._header(offset)
            key = header.abbreviations, header.layout
            if key not in self._tables:
                cursor = self.sections.need(".debug_abbrev").cursor(header.abbreviations)
                self._tables[key] = read_abbreviations(cursor, header.layout)
            unit = self._units[offset] = Unit(self.sections, header, self._tables[key])
        return unit

    def glance(self, offset: int) -> Unit:
        """Return a unit of which only `root` can be read, for little work; raises DwarfError."""
        header = self._header(offset)
        code = self.sections.need(".debug_info").cursor(offset + header.first).uleb128()
        cursor = self.sections.need(".debug_abbrev").cursor(header.abbreviations)
        return Unit(self.sections, header, read_abbreviations(cursor, header.layout, code))

    @cached_property
    def offsets(self) -> list[int]:
        """Where all units begin; those behind one of a wrong length are left out."""
        section, found, offset = self.sections.need(".debug_info"), list[int](), 0
        while offset < section.size:
            try:
                _, start, length = self._length(offset)
            except DwarfError:
                break
            found.append(offset)
            offset = start + length
        return found

    def type_signature(self, offset: int) -> tuple[int, int] | None:
        """Return the signature of the type unit at an offset, and where in it the type is.

        None for a unit of another kind, and for one that is damaged.
        """
        try:
            wide, start, _ = self._length(offset)
            section = self.sections.need(".debug_info")
            if section.number(start, 2) < 5 or section.number(start + 2, 1) != c.DW_UT_type:
                return None
            at = start + (12 if wide else 8)
            return section.number(at, 8), section.number(at + 8, 8 if wide else 4)
        except DwarfError:
            return None

    def containing(self, offset: int) -> Unit:
        """Return the unit that has an offset of .debug_info; raises DwarfError."""
        at = bisect_right(self.offsets, offset)
        if not at:
            raise DwarfError(f"there is no unit at {offset:#x}")
        return self.at(self.offsets[at - 1])

    def refer(self, unit: Unit, value: Value) -> tuple[Unit, int] | None:
        """Return the entry that an attribute refers to: its unit, and the offset in that.

        None where that is in another file, or a type's signature.
        """
        form, raw = value
        if not isinstance(raw, int):
            return None
        if form in forms.UNIT_REFERENCES:
            return unit, raw
        if form != c.DW_FORM_ref_addr:
            return None
        other = self.containing(raw)
        return other, raw - other.header.offset

    def name(self, unit: Unit, offset: int) -> str:
        """Return the name of the function at an offset, "" for none; raises DwarfError.

        That is DW_AT_linkage_name, as symbols have it, or else DW_AT_name; of the entry itself or
        of one that it is a copy or the definition of (DW_AT_abstract_origin, DW_AT_specification).
        """
        plain = ""
        for _ in range(_MOST_HOPS):
            _, values = unit.entry(offset)
            linkage = values.get(c.DW_AT_linkage_name) or values.get(c.DW_AT_MIPS_linkage_name)
            if found := unit.string(linkage):
                return found
            plain = plain or unit.string(values.get(c.DW_AT_name))
            origin = values.get(c.DW_AT_abstract_origin) or values.get(c.DW_AT_specification)
            next_entry = self.refer(unit, origin) if origin else None
            if next_entry is None:
                return plain
            unit, offset = next_entry
        raise DwarfError(f"a function's name is more than {_MOST_HOPS} entries away")

    def _length(self, offset: int) -> tuple[bool, int, int]:
        """Return of a unit: whether it is wide, where it begins behind its length, the length."""
        section = self.sections.need(".debug_info")
        length, start, wide = section.number(offset, 4), offset + 4, False
        if length == _EXTENDED:
            length, start, wide = section.number(start, 8), offset + 12, True
        elif length >= _RESERVED:
            raise DwarfError(f"a unit of {length:#x} bytes at {offset:#x}")
        if start + length > section.size:
            raise DwarfError(f"the unit at {offset:#x} reaches beyond .debug_info")
        return wide, start, length

    def _header(self, offset: int) -> Header:
        wide, start, length = self._length(offset)
        section = self.sections.need(".debug_info")
        body = Cursor(section.take(start, min(length, _LONGEST_HEADER)))
        version = body.u2()
        if not 2 <= version <= 5:
            raise DwarfError(f"a unit of version {version}")
        kind = body.u1() if version >= 5 else c.DW_UT_compile
        address_size = body.u1() if version >= 5 else 0
        abbreviations = body.u8() if wide else body.u4()
        if version < 5:
            address_size = body.u1()
        if address_size != 8:
            raise DwarfError(f"a unit with addresses of {address_size} bytes")
        if kind in (c.DW_UT_skeleton, c.DW_UT_split_compile):
            body.u8()  # the id of the other half
        elif kind in (c.DW_UT_type, c.DW_UT_split_type):
            body.take(16 if wide else 12)  # signature and offset of the type
        size = start + length - offset
        return Header(offset, size, Layout(wide, version), abbreviations, start - offset + body.at)

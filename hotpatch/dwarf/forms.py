# SPDX-License-Identifier: GPL-2.0-or-later
"""How the values of attributes are written: the forms (DWARF 5, 7.5.5 and 7.5.6).

A value is read as it stands, a number or bytes. What it refers to (a string, an address in a table)
is looked up by `hotpatch.dwarf.units` only where it is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import Cursor, DwarfError

Raw = int | bytes
"""What stands in the section: a number, or the bytes of a block or a string."""

ReadForm = Callable[[Cursor], Raw]


class Layout(NamedTuple):
    """What the size of some forms depends on: the 64-bit format, and the unit's version."""

    wide: bool
    version: int


def _u3(cursor: Cursor) -> int:
    return int.from_bytes(cursor.take(3), "little")


_NUMBERS: dict[int, ReadForm] = {
    1: Cursor.u1, 2: Cursor.u2, 3: _u3, 4: Cursor.u4, 8: Cursor.u8,
}  # fmt: skip

# Of a fixed size in bytes.
_SIZES = {
    c.DW_FORM_addr: 8, c.DW_FORM_addrx1: 1, c.DW_FORM_addrx2: 2, c.DW_FORM_addrx3: 3,
    c.DW_FORM_addrx4: 4, c.DW_FORM_data1: 1, c.DW_FORM_data2: 2, c.DW_FORM_data4: 4,
    c.DW_FORM_data8: 8, c.DW_FORM_data16: 16, c.DW_FORM_flag: 1, c.DW_FORM_flag_present: 0,
    c.DW_FORM_implicit_const: 0, c.DW_FORM_ref1: 1, c.DW_FORM_ref2: 2, c.DW_FORM_ref4: 4,
    c.DW_FORM_ref8: 8, c.DW_FORM_ref_sig8: 8, c.DW_FORM_ref_sup4: 4, c.DW_FORM_ref_sup8: 8,
    c.DW_FORM_strx1: 1, c.DW_FORM_strx2: 2, c.DW_FORM_strx3: 3, c.DW_FORM_strx4: 4,
}  # fmt: skip

# Offsets in a section: 4 bytes, or 8 in the 64-bit format.
_OFFSETS = frozenset((
    c.DW_FORM_strp, c.DW_FORM_line_strp, c.DW_FORM_strp_sup, c.DW_FORM_sec_offset,
    c.DW_FORM_ref_addr, c.DW_FORM_GNU_ref_alt, c.DW_FORM_GNU_strp_alt,
))  # fmt: skip

# Of a size that they tell themselves.
_VARIABLE: dict[int, ReadForm] = {
    c.DW_FORM_block: Cursor.block,
    c.DW_FORM_block1: lambda cursor: cursor.take(cursor.u1()),
    c.DW_FORM_block2: lambda cursor: cursor.take(cursor.u2()),
    c.DW_FORM_block4: lambda cursor: cursor.take(cursor.u4()),
    c.DW_FORM_exprloc: Cursor.block,
    c.DW_FORM_string: Cursor.string,
    c.DW_FORM_sdata: Cursor.sleb128,
    c.DW_FORM_udata: Cursor.uleb128,
    c.DW_FORM_ref_udata: Cursor.uleb128,
    c.DW_FORM_strx: Cursor.uleb128,
    c.DW_FORM_addrx: Cursor.uleb128,
    c.DW_FORM_loclistx: Cursor.uleb128,
    c.DW_FORM_rnglistx: Cursor.uleb128,
    c.DW_FORM_GNU_addr_index: Cursor.uleb128,
    c.DW_FORM_GNU_str_index: Cursor.uleb128,
}

STRINGS = frozenset((
    c.DW_FORM_string, c.DW_FORM_strp, c.DW_FORM_line_strp, c.DW_FORM_strx, c.DW_FORM_strx1,
    c.DW_FORM_strx2, c.DW_FORM_strx3, c.DW_FORM_strx4, c.DW_FORM_GNU_str_index,
))  # fmt: skip
STRING_INDICES = frozenset((
    c.DW_FORM_strx, c.DW_FORM_strx1, c.DW_FORM_strx2, c.DW_FORM_strx3, c.DW_FORM_strx4,
    c.DW_FORM_GNU_str_index,
))  # fmt: skip
ADDRESS_INDICES = frozenset((
    c.DW_FORM_addrx, c.DW_FORM_addrx1, c.DW_FORM_addrx2, c.DW_FORM_addrx3, c.DW_FORM_addrx4,
    c.DW_FORM_GNU_addr_index,
))  # fmt: skip
ADDRESSES = ADDRESS_INDICES | {c.DW_FORM_addr}
UNIT_REFERENCES = frozenset((
    c.DW_FORM_ref1, c.DW_FORM_ref2, c.DW_FORM_ref4, c.DW_FORM_ref8, c.DW_FORM_ref_udata,
))  # fmt: skip


def size_of(form: int, layout: Layout) -> int | None:
    """Return the size in bytes of a form, None where it varies."""
    if form in _OFFSETS:
        old = form == c.DW_FORM_ref_addr and layout.version <= 2  # was as large as an address
        return 8 if layout.wide or old else 4
    return _SIZES.get(form)


def reader_of(form: int, layout: Layout) -> ReadForm:
    """Return what reads a value of that form; DwarfError for one that is not known.

    DW_FORM_indirect and DW_FORM_implicit_const are the abbreviation's own affair.
    """
    variable = _VARIABLE.get(form)
    if variable is not None:
        return variable
    size = size_of(form, layout)
    if size is None:
        raise DwarfError(f"an attribute of form {form:#x}")
    if size == 0:
        return lambda _: 1
    if size == 16:
        return lambda cursor: cursor.take(16)
    return _NUMBERS[size]

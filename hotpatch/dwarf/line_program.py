# SPDX-License-Identifier: GPL-2.0-or-later
"""Line number programs: which line of which file the code of one unit comes from (DWARF 5, 6.2).

The program of a unit is run once, as a whole, into a table that is searched by address: it can't be
entered in the middle, and its sequences are in no order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf import forms
from hotpatch.dwarf.abbreviations import Value
from hotpatch.dwarf.cursor import ADDRESS_MASK, Cursor, DwarfError
from hotpatch.dwarf.forms import Layout
from hotpatch.dwarf.units import Unit

_EXTENDED = 0xFFFFFFFF
_DROPPED = ADDRESS_MASK - 1  # where lld puts code that was dropped, and above; others put it at 0


class _Header(NamedTuple):
    """What of a program's header the machine needs (6.2.4)."""

    code_alignment: int
    line_base: int
    line_range: int
    operands: bytes
    """How many operands each standard opcode has, from opcode 1 on."""


Row = tuple[int, int] | None
"""A file's number and a line; None behind the last row of a sequence."""


class _Sequence(NamedTuple):
    """Rows of contiguous code (6.2.5), each with the address from which on it holds."""

    addresses: list[int]
    rows: list[Row]


class LineTable:
    """The lines of one unit."""

    def __init__(self, unit: Unit, offset: int) -> None:
        """Run the program at an offset of .debug_line; raises DwarfError where it is damaged."""
        self._unit = unit
        self._directory = unit.string(unit.root.get(c.DW_AT_comp_dir))
        self._files: dict[int, tuple[Value, int]] = {}
        self._directories: list[Value] = []
        section = unit.sections.need(".debug_line")
        length, start, wide = section.number(offset, 4), offset + 4, False
        if length == _EXTENDED:
            length, start, wide = section.number(start, 8), offset + 12, True
        cursor = Cursor(section.take(start, length))
        header = self._header(cursor, wide)
        sequences = list(_Machine(header, cursor, self._add_file).run())
        sequences.sort(key=lambda sequence: sequence.addresses[0])
        self._addresses = [address for s in sequences for address in s.addresses]
        self._rows = [row for s in sequences for row in s.rows]

    def find(self, pc: int) -> Row:
        """Return the file's number and the line of an address; None where the table has none."""
        at = bisect_right(self._addresses, pc) - 1
        return self._rows[at] if at >= 0 else None

    def path(self, file: int) -> str:
        """Return the path of a file by its number, "" for none; raises DwarfError.

        It is absolute as far as the compiler said where it ran.
        """
        found = self._files.get(file)
        if found is None:
            return ""
        value, directory = found
        name, parents = self._unit.string(value), [self._directory]
        if 0 <= directory < len(self._directories):
            parents.append(self._unit.string(self._directories[directory]))
        for parent in reversed(parents):
            if name.startswith("/"):
                break
            name = f"{parent}/{name}" if parent else name
        return name

    def _header(self, cursor: Cursor, wide: bool) -> _Header:
        version = cursor.u2()
        if not 2 <= version <= 5:
            raise DwarfError(f"a line number program of version {version}")
        if version >= 5 and (cursor.u1(), cursor.u1()) != (8, 0):
            raise DwarfError("a line number program for addresses that are not flat 64-bit ones")
        length = cursor.u8() if wide else cursor.u4()
        program = cursor.at + length
        alignment = cursor.u1()
        if version >= 4 and cursor.u1() != 1:
            raise DwarfError("a line number program for a VLIW machine")
        cursor.u1()  # default_is_stmt: no difference is made
        line_base, line_range = cursor.s1(), cursor.u1()
        operands = cursor.take(max(0, cursor.u1() - 1))
        if not line_range:
            raise DwarfError("a line number program whose line_range is 0")
        layout = Layout(wide, version)
        if version >= 5:
            self._directories = [path for path, _ in _entries(cursor, layout)]
            self._files = dict(enumerate(_entries(cursor, layout)))
        else:
            self._old_tables(cursor)
        if not cursor.at <= program <= cursor.end:
            raise DwarfError("a line number program's header is of a wrong length")
        cursor.at = program
        return _Header(alignment, line_base, line_range, operands)

    def _old_tables(self, cursor: Cursor) -> None:
        """Read the directories and files of DWARF 2 to 4, both counted from 1."""
        self._directories = [(c.DW_FORM_string, b"")]  # 0 is the compiler's own
        while path := cursor.string():
            self._directories.append((c.DW_FORM_string, path))
        while path := cursor.string():
            self._add_file(path, cursor)

    def _add_file(self, path: bytes, cursor: Cursor) -> None:
        directory, _, _ = cursor.uleb128(), cursor.uleb128(), cursor.uleb128()  # time, size
        self._files[len(self._files) + 1] = (c.DW_FORM_string, path), directory


def _entries(cursor: Cursor, layout: Layout) -> list[tuple[Value, int]]:
    """Return a list of directories or files of DWARF 5: paths, and numbers of directories."""
    formats = [(cursor.uleb128(), cursor.uleb128()) for _ in range(cursor.u1())]
    readers = [(kind, form, forms.reader_of(form, layout)) for kind, form in formats]
    count, found = cursor.uleb128(), list[tuple[Value, int]]()
    if count > cursor.end - cursor.at:  # each takes a byte at least
        raise DwarfError(f"a list of {count} files")
    for _ in range(count):
        path: Value = c.DW_FORM_string, b""
        directory = 0
        for kind, form, read in readers:
            raw = read(cursor)
            if kind == c.DW_LNCT_path:
                path = form, raw
            elif kind == c.DW_LNCT_directory_index and isinstance(raw, int):
                directory = raw
        found.append((path, directory))
    return found


class _Machine:
    """The machine that runs a program (6.2.2), as far as addresses, files and lines go."""

    def __init__(
        self, header: _Header, cursor: Cursor, add_file: Callable[[bytes, Cursor], None]
    ) -> None:
        """Begin where the cursor is; `add_file` is for DW_LNE_define_file."""
        self._header = header
        self._cursor = cursor
        self._add_file = add_file
        self._begin()

    def _begin(self) -> None:
        self._address, self._file, self._line = 0, 1, 1

    def run(self) -> Iterator[_Sequence]:
        """Return the sequences, but for those of code that the linker dropped.

        One long loop, as nearly all instructions are special opcodes, which add a row each.
        """
        cursor = self._cursor
        alignment, line_base, line_range, operands = self._header
        opcode_base = len(operands) + 1
        advances = [
            ((opcode - opcode_base) // line_range * alignment,
             line_base + (opcode - opcode_base) % line_range)
            for opcode in range(256)
        ]  # fmt: skip
        addresses, rows = list[int](), list[Row]()
        while cursor.at < cursor.end:
            opcode = cursor.u1()
            if opcode >= opcode_base:
                address, line = advances[opcode]
                self._address += address
                self._line += line
            elif opcode == 0:
                if not self._extended():
                    continue
                if addresses and 0 < addresses[0] < self._address < _DROPPED:
                    yield _Sequence([*addresses, self._address], [*rows, None])
                addresses, rows = [], []
                self._begin()
                continue
            elif opcode != c.DW_LNS_copy:
                self._standard(opcode, operands, advances[255][0])
                continue
            if addresses and addresses[-1] == self._address:  # the last row of an address counts
                rows[-1] = self._file, self._line
            else:
                addresses.append(self._address)
                rows.append((self._file, self._line))

    def _extended(self) -> bool:
        """Follow an extended opcode (6.2.5.3); return whether it ended the sequence."""
        cursor = self._cursor
        size = cursor.uleb128()
        operand = Cursor(cursor.take(size))
        opcode = operand.u1() if size else 0  # padding
        if opcode == c.DW_LNE_set_address:
            self._address = operand.u8()
        elif opcode == c.DW_LNE_define_file:
            self._add_file(operand.string(), operand)
        return opcode == c.DW_LNE_end_sequence

    def _standard(self, opcode: int, operands: bytes, const_add_pc: int) -> None:
        """Follow a standard opcode that adds no row (6.2.5.2)."""
        cursor = self._cursor
        if opcode == c.DW_LNS_advance_line:
            self._line += cursor.sleb128()
        elif opcode == c.DW_LNS_advance_pc:
            self._address += cursor.uleb128() * self._header.code_alignment
        elif opcode == c.DW_LNS_set_file:
            self._file = cursor.uleb128()
        elif opcode == c.DW_LNS_const_add_pc:
            self._address += const_add_pc
        elif opcode == c.DW_LNS_fixed_advance_pc:
            self._address += cursor.u2()
        else:
            for _ in range(operands[opcode - 1]):
                cursor.uleb128()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Source positions of code addresses, with the functions that were inlined there: `SourceLines`.

    for position in SourceLines.of_file(elf).at(pc):    # (): the file says nothing of that address
        position.function, position.file, position.line, position.inlined

As for a call frame, the address of a call is asked for, not its return address: that may be in the
next line, or function.

Of a file only the unit (what was compiled at once) that has the address is read: its entries and
its line number program once, when first asked for. A program without debug information costs the
look at its section headers, and at those of its separate debug file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.aranges import UnitIndex
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.functions import Functions
from hotpatch.dwarf.line_program import LineTable, Row
from hotpatch.dwarf.sections import DebugSections
from hotpatch.dwarf.units import Unit, Units
from hotpatch.elf.file import ElfError, ElfFile


class Position(NamedTuple):
    """A place in the source, in a function.

    `function` is named as in symbols (DW_AT_linkage_name, else DW_AT_name); "" where it has no
    entry (assembler sources). `file` is a path, absolute where the compiler said where it ran; ""
    if it isn't known. `line` counts from 1; 0 is code that comes from no line. `inlined`: the
    function is a copy in the next position's, which "calls" it from there.
    """

    function: str
    file: str
    line: int
    inlined: bool


class SourceLines:
    """The source positions of one file."""

    def __init__(self, places: tuple[Callable[[], ElfFile | None], ...]) -> None:
        """Use the first file with .debug_info of those that `places` open; see `of_file`."""
        self._places = list(places)
        self._file: _File | None = None

    @classmethod
    def of_file(
        cls, elf: ElfFile, debug: Callable[[], ElfFile | None] | None = None
    ) -> SourceLines:
        """Use a file, or what `debug` gives where that has no .debug_info: its debug file.

        Both have to stay open. `debug` is called once, and only if needed.
        """
        return cls((lambda: elf, debug) if debug is not None else (lambda: elf,))

    def at(self, pc: int) -> tuple[Position, ...]:
        """Return the position of a code address and those that it is inlined in, innermost first.

        `pc` is an address of the file, without the bias that the loader adds. Only the last one is
        not `inlined`. () where the file says nothing of that address; raises DwarfError for
        damage, and for sections compressed in other ways than by zlib.
        """
        file = self._opened()
        try:
            return file.at(pc) if file is not None else ()
        except ElfError as error:
            raise DwarfError(str(error)) from None

    def _opened(self) -> _File | None:
        while self._file is None and self._places:
            try:
                elf = self._places[0]()
            except ElfError as error:
                raise DwarfError(str(error)) from None
            if elf is not None:
                sections = DebugSections(elf)
                if sections.get(".debug_info") is not None:
                    self._file = _File(sections)
            del self._places[0]
        return self._file


class _File:
    """What is known of a file with debug information."""

    def __init__(self, sections: DebugSections) -> None:
        self._units = Units(sections)
        self._index = UnitIndex(self._units)
        self._known: dict[int, _UnitLines | str] = {}

    def at(self, pc: int) -> tuple[Position, ...]:
        offset = self._index.find(pc)
        return () if offset is None else self._unit(offset).at(pc)

    def _unit(self, offset: int) -> _UnitLines:
        """Return a unit, which is read once, even where it is damaged."""
        known = self._known.get(offset)
        if known is None:
            try:
                known = _UnitLines(self._units, self._units.at(offset))
            except DwarfError as error:
                known = str(error)
            self._known[offset] = known
        if isinstance(known, str):
            raise DwarfError(known)
        return known


class _UnitLines:
    """The functions and lines of one unit."""

    def __init__(self, units: Units, unit: Unit) -> None:
        self._units = units
        self._unit = unit
        self._functions = Functions(unit)
        program = unit.number(unit.root, c.DW_AT_stmt_list)
        self._lines = LineTable(unit, program) if program is not None else None

    def at(self, pc: int) -> tuple[Position, ...]:
        row = self._lines.find(pc) if self._lines is not None else None
        chain = self._functions.at(pc)
        if not chain:
            return (self._position("", row, False),) if row is not None else ()
        positions = []
        for function in chain:
            name = self._units.name(self._unit, function.offset)
            positions.append(self._position(name, row, function.inlined))
            row = function.call_file, function.call_line
        return tuple(positions)

    def _position(self, name: str, row: Row, inlined: bool) -> Position:
        if self._lines is None or row is None:
            return Position(name, "", 0, inlined)
        file, line = row
        return Position(name, self._lines.path(file), line, inlined)

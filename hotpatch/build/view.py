# SPDX-License-Identifier: GPL-2.0-or-later
"""The debug information of an object file, made readable: `DebugView`.

In an object file the fields of .debug_* sections are relocations still to be done, and every
section begins at 0. Here each gets an address of its own, and the relocations are done for these.
"""

from __future__ import annotations

from functools import cached_property
from struct import pack_into

from hotpatch.arch import relocations as r
from hotpatch.build.atoms import Atom
from hotpatch.build.objects import Object
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.lines import SourceLines
from hotpatch.dwarf.names import Names
from hotpatch.dwarf.types import Types
from hotpatch.elf import constants as c
from hotpatch.elf.content import ElfError
from hotpatch.elf.file import ElfFile

_FIRST, _ALIGN = 0x1000, 64  # where the first section is put, and the next ones
_MASK = (1 << 32) - 1


class DebugView:
    """An object file with its debug information relocated."""

    def __init__(self, obj: Object) -> None:
        """Use an object file; nothing is done before it is asked for."""
        self._object = obj

    @cached_property
    def _addresses(self) -> dict[int, int]:
        """Where each section of the program would be, by index."""
        found, at = {}, _FIRST
        for section in self._object.elf.sections:
            if section.flags & c.SHF_ALLOC:
                found[section.index] = at
                at += (section.size // _ALIGN + 1) * _ALIGN
        return found

    @cached_property
    def elf(self) -> ElfFile:
        """The file with its debug information relocated; raises ElfError."""
        data = bytearray(self._object.elf.data)
        values = [self._addresses.get(s.section, 0) + s.value for s in self._object.symbols]
        for section in self._object.elf.sections:
            if not section.name.startswith(".debug_") or section.flags & c.SHF_ALLOC:
                continue
            for row in self._object.relocations(section.index):
                place, size = section.offset + row.offset, r.field_size(row.type)
                outside = row.offset + size > section.size or place + size > len(data)
                if outside or row.symbol >= len(values):
                    raise ElfError("a relocation of nothing", place, self._object.path)
                value = values[row.symbol] + row.addend
                if size == 8:
                    pack_into("<Q", data, place, value & (1 << 64) - 1)
                elif size == 4:
                    pack_into("<I", data, place, value & _MASK)
        return ElfFile.from_bytes(bytes(data), self._object.path)

    @cached_property
    def names(self) -> Names:
        """The types, variables and functions that it describes."""
        return Names(Types(self.elf))

    @cached_property
    def _lines(self) -> SourceLines:
        return SourceLines.of_file(self.elf)

    def line(self, atom: Atom, offset: int) -> int | None:
        """Return the line of the instruction at `offset` of a function, None where not known."""
        start = self._addresses.get(atom.section.index)
        if start is None:
            return None
        try:
            found = self._lines.at(start + atom.start + offset)
        except DwarfError:
            return None
        return found[0].line if found else None

# SPDX-License-Identifier: GPL-2.0-or-later
"""One symbol table as columns of numbers (Elf64_Sym: gABI, "Symbol Table").

A quarter of a million symbols take a tenth of a second as Python objects, and next to nothing as
columns: a strided memoryview takes one field of all rows apart in C. So look-ups work on the one
column they need, and names and objects are made only of the rows they found.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from struct import Struct

from hotpatch.elf import constants as c
from hotpatch.elf.bulk import column
from hotpatch.elf.content import Content

SYM = Struct("<IBBHQQ")  # name, info, other, shndx, value, size
_FEW = 16
_TYPE = bytes(i & 0xF for i in range(256))
_BIND = bytes(i >> 4 for i in range(256))
_VISIBILITY = bytes(i & 3 for i in range(256))


class Columns:
    """The rows of one SHT_SYMTAB or SHT_DYNSYM, copied from the file at first use."""

    def __init__(self, content: Content, offset: int, count: int, shndx: int | None = None) -> None:
        """Describe `count` rows at file `offset`, and their SHT_SYMTAB_SHNDX at `shndx`."""
        self.count = count
        self._content = content
        self._offset = offset
        self._shndx = shndx
        content.take(
            offset + max(0, count - 1) * SYM.size, SYM.size if count else 0, "symbol table"
        )

    @cached_property
    def _raw(self) -> bytes:
        return self._content.take(self._offset, self.count * SYM.size, "symbol table")

    def row(self, index: int) -> tuple[int, int, int, int, int, int]:
        """Return name, info, other, section, value and size of the row; ElfError if outside."""
        if not 0 <= index < self.count:
            raise self._content.error(f"symbol {index} of a table of {self.count}", self._offset)
        name, info, other, section, value, size = SYM.unpack_from(self._raw, index * SYM.size)
        if section == c.SHN_XINDEX and self._extended:
            section = self._extended[index]
        return name, info, other, section, value, size

    @cached_property
    def name_offsets(self) -> list[int]:
        """st_name of every row."""
        return column(self._raw, "I", 6, 0)

    @cached_property
    def _name_bytes(self) -> bytes:
        return memoryview(self._raw).cast("I")[::6].tobytes() if self._raw else b""

    @cached_property
    def values(self) -> list[int]:
        """st_value of every row."""
        return column(self._raw, "Q", 3, 1)

    @cached_property
    def sizes(self) -> list[int]:
        """st_size of every row."""
        return column(self._raw, "Q", 3, 2)

    @cached_property
    def types(self) -> bytes:
        """ELF64_ST_TYPE of every row."""
        return self._raw[4 :: SYM.size].translate(_TYPE)

    @cached_property
    def binds(self) -> bytes:
        """ELF64_ST_BIND of every row."""
        return self._raw[4 :: SYM.size].translate(_BIND)

    @cached_property
    def visibilities(self) -> bytes:
        """ELF64_ST_VISIBILITY of every row."""
        return self._raw[5 :: SYM.size].translate(_VISIBILITY)

    @cached_property
    def sections(self) -> list[int]:
        """st_shndx of every row, SHN_XINDEX already looked up."""
        short = column(self._raw, "H", 12, 3)
        if self._extended and c.SHN_XINDEX in short:
            pairs = zip(short, self._extended, strict=True)
            return [more if index == c.SHN_XINDEX else index for index, more in pairs]
        return short

    @cached_property
    def _extended(self) -> list[int]:
        if self._shndx is None:
            return []
        raw = self._content.take(self._shndx, 4 * self.count, "extended section indices")
        return column(raw, "I")

    @cached_property
    def file_rows(self) -> list[int]:
        """The rows of type STT_FILE; the local symbols behind each belong to it."""
        rows, row = [], self.types.find(c.STT_FILE)
        while row >= 0:
            rows.append(row)
            row = self.types.find(c.STT_FILE, row + 1)
        return rows

    def file_group(self, row: int) -> int:
        """Return which of `file_rows` the row stands behind; -1 for none."""
        return bisect_right(self.file_rows, row) - 1

    def named(self, offsets: list[int]) -> list[int]:
        """Return, in order, the rows whose st_name is one of `offsets`."""
        if len(offsets) > _FEW:
            wanted = set(offsets)
            return [row for row, offset in enumerate(self.name_offsets) if offset in wanted]
        return sorted(row for offset in offsets for row in self._named(offset))

    def named_within(self, spans: list[tuple[int, int]]) -> list[int]:
        """Return the rows whose st_name lies in one of `spans`, which ascend and don't overlap."""
        if not spans:
            return []
        starts, found = [start for start, _ in spans], []
        for row, offset in enumerate(self.name_offsets):
            span = bisect_right(starts, offset) - 1
            if span >= 0 and offset < spans[span][1]:
                found.append(row)
        return found

    def _named(self, offset: int) -> list[int]:
        needle, rows = offset.to_bytes(4, "little"), []
        found = self._name_bytes.find(needle)
        while found >= 0:
            if found % 4 == 0:
                rows.append(found // 4)
            found = self._name_bytes.find(needle, found + 1)
        return rows

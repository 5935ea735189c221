# SPDX-License-Identifier: GPL-2.0-or-later
"""The sections of an ELF file that hold DWARF, plain or compressed: `DebugSections`.

A plain section is not copied: only what is asked for is. A compressed one (gABI, "Section
Compression", or the older .zdebug_* of GNU) is decompressed as a whole when first asked for.
"""

from __future__ import annotations

import zlib
from mmap import mmap

from hotpatch.dwarf.cursor import Cursor, DwarfError
from hotpatch.elf import constants as c
from hotpatch.elf.file import ElfError, ElfFile, Section

_COMPRESSION_HEADER = 24  # Elf64_Chdr: ch_type, reserved, ch_size, ch_addralign
_ELFCOMPRESS_ZLIB, _ELFCOMPRESS_ZSTD = 1, 2
_GNU_HEADER = 12  # "ZLIB" and the size, 8 bytes with the highest first
_LARGEST_SECTION = 1 << 30
_LONGEST_STRING = 1 << 16


class DebugSection:
    """The content of one section."""

    __slots__ = ("_data", "_start", "name", "size")

    def __init__(self, name: str, data: bytes | mmap, start: int, size: int) -> None:
        """Use `size` bytes at `start` of `data`; DwarfError where there are fewer."""
        if start + size > len(data):
            raise DwarfError(f"{name} of {size} bytes reaches beyond the end of the file")
        self.name = name
        self.size = size
        self._data = data
        self._start = start

    def take(self, offset: int, size: int) -> bytes:
        """Return `size` bytes at an offset; DwarfError where there are fewer."""
        if not 0 <= offset <= offset + size <= self.size:
            raise DwarfError(f"{self.name} has no {size} bytes at {offset:#x}")
        start = self._start + offset
        return self._data[start : start + size]

    def cursor(self, offset: int) -> Cursor:
        """Return a cursor at an offset, which ends with the section."""
        return Cursor(self._data, 0, self._start + offset, self._start + self.size)

    def number(self, offset: int, size: int) -> int:
        """Return the number of `size` bytes at an offset; DwarfError where there are fewer."""
        return int.from_bytes(self.take(offset, size), "little")

    def string(self, offset: int) -> bytes:
        """Return what is at an offset, up to a NUL; DwarfError where there is none."""
        start = self._start + offset
        last = min(start + _LONGEST_STRING, self._start + self.size)
        end = self._data.find(b"\0", start, last) if 0 <= offset < self.size else -1
        if end < 0:
            raise DwarfError(f"{self.name} has no string at {offset:#x}")
        return self._data[start:end]


class DebugSections:
    """The sections of a file whose names begin with .debug_ (or .zdebug_)."""

    def __init__(self, elf: ElfFile) -> None:
        """Use `elf`, which has to stay open; nothing is read before it is asked for."""
        self._elf = elf
        self._known: dict[str, DebugSection | None] = {}

    def get(self, name: str) -> DebugSection | None:
        """Return a section by its name without compression (".debug_info"), None without it.

        Raises DwarfError where it is there but can't be read. A file whose section headers are
        damaged counts as one without sections, as the loader doesn't look at them.
        """
        if name not in self._known:
            try:
                self._known[name] = self._find(name)
            except ElfError as error:
                raise DwarfError(str(error)) from None
        return self._known[name]

    def need(self, name: str) -> DebugSection:
        """Return a section that others refer to; DwarfError without it."""
        found = self.get(name)
        if found is None:
            raise DwarfError(f"there is no {name}")
        return found

    def _find(self, name: str) -> DebugSection | None:
        section = self._section(name)
        if section is not None:
            if section.flags & c.SHF_COMPRESSED:
                content = _decompressed(self._elf.section_data(section))
                return DebugSection(name, content, 0, len(content))
            return DebugSection(name, self._elf.data, section.offset, section.size)
        section = self._section(name.replace(".", ".z", 1))
        if section is None:
            return None
        content = _decompressed_gnu(self._elf.section_data(section))
        return DebugSection(name, content, 0, len(content))

    def _section(self, name: str) -> Section | None:
        try:
            found = self._elf.section(name)
        except ElfError:
            return None
        return None if found is None or found.type == c.SHT_NOBITS else found


def _decompressed(content: bytes) -> bytes:
    """Return what is in an SHF_COMPRESSED section (gABI, "Section Compression")."""
    kind = int.from_bytes(content[:4], "little")
    size = int.from_bytes(content[8:16], "little")
    if kind == _ELFCOMPRESS_ZSTD:
        raise DwarfError("a section compressed by zstd, which is not supported")
    if kind != _ELFCOMPRESS_ZLIB:
        raise DwarfError(f"a section compressed in way {kind}")
    return _inflated(content[_COMPRESSION_HEADER:], size)


def _decompressed_gnu(content: bytes) -> bytes:
    """Return what is in a .zdebug_* section."""
    if content[:4] != b"ZLIB":
        raise DwarfError("a .zdebug section that does not begin with ZLIB")
    return _inflated(content[_GNU_HEADER:], int.from_bytes(content[4:_GNU_HEADER], "big"))


def _inflated(content: bytes, size: int) -> bytes:
    if size > _LARGEST_SECTION:
        raise DwarfError(f"a compressed section of {size} bytes")
    try:
        found = zlib.decompressobj().decompress(content, size or 1)
    except zlib.error as error:
        raise DwarfError(f"a compressed section is damaged: {error}") from None
    if len(found) != size:
        raise DwarfError("a compressed section is of the wrong size")
    return found

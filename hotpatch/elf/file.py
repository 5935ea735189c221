# SPDX-License-Identifier: GPL-2.0-or-later
"""One ELF file: `ElfFile`.

Opening checks the header and the program headers; everything else is read when first asked for,
and kept. A damaged file raises `ElfError` at that time. Addresses are those of the file, without
the bias that the loader adds.
"""

from __future__ import annotations

import os
import stat
from functools import cached_property
from mmap import ACCESS_READ, mmap

from hotpatch.elf import constants as c
from hotpatch.elf.bulk import column
from hotpatch.elf.columns import SYM, Columns
from hotpatch.elf.content import Content, ElfError
from hotpatch.elf.dynamic import Dynamic, read_dynamic
from hotpatch.elf.header import Section, Segment, read_header, read_sections, read_segments
from hotpatch.elf.image import Image
from hotpatch.elf.notes import Note, build_id, section_notes, segment_notes
from hotpatch.elf.relocations import Relocation, dynamic_relocations, static_relocations
from hotpatch.elf.strings import StringTable
from hotpatch.elf.symbols import SymbolSection, SymbolTable

__all__ = ["ElfError", "ElfFile", "Section", "Segment"]

# Files up to this size are copied: a mapping would raise SIGBUS when someone truncates the file,
# and a patch should be the same at check and at apply. Larger ones are programs and libraries.
_COPIED = 1 << 20


class ElfFile:
    """An x86-64 ELF file on disk or in memory."""

    def __init__(self, data: bytes | mmap, name: str) -> None:
        """Check the headers of `data`; use `open` or `from_bytes`."""
        self.name = name
        self.data = data
        self._content = Content(data, name)
        self._header = read_header(self._content)
        self.type = self._header.type
        self.machine = self._header.machine
        self.entry = self._header.entry
        self.segments = read_segments(self._content, self._header)
        self.image = Image(self._content, self.segments)

    @classmethod
    def open(cls, path: str) -> ElfFile:
        """Open the file at `path`; OSError if that fails, ElfError for what is no x86-64 ELF."""
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ElfError("not a regular file", name=path)
            data = _read(fd, status.st_size)
        finally:
            os.close(fd)
        return cls(data, path)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "<memory>") -> ElfFile:
        """Use `data` as the content of a file; `name` is for messages."""
        return cls(data, name)

    def close(self) -> None:
        """Unmap the file. What was read from it before stays valid."""
        if isinstance(self.data, mmap):
            self.data.close()

    def read(self, vaddr: int, size: int) -> bytes:
        """Return `size` bytes of the image at `vaddr`, zeros in a bss; ElfError outside PT_LOAD."""
        return self.image.read(vaddr, size)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The section headers; () if the file has none."""
        return read_sections(self._content, self._header)

    def section(self, name: str) -> Section | None:
        """Return the first section of that name."""
        return next((s for s in self.sections if s.name == name), None)

    def section_data(self, section: Section) -> bytes:
        """Return the stored content of `section`; b"" for SHT_NOBITS."""
        if section.type in (c.SHT_NOBITS, c.SHT_NULL):
            return b""
        return self._content.take(section.offset, section.size, f"section {section.name}")

    @cached_property
    def debug_only(self) -> bool:
        """Whether this is the separate debug file of another: it has sections but no code.

        The program headers of such a file are those of the other and point nowhere.
        """
        flags = c.SHF_ALLOC | c.SHF_EXECINSTR
        code = [s for s in self.sections if s.flags & flags == flags]
        return bool(code) and all(s.type == c.SHT_NOBITS for s in code)

    @cached_property
    def dynamic(self) -> dict[int, list[int]]:
        """The values of each DT_* tag of PT_DYNAMIC; {} without."""
        segment = next((s for s in self.segments if s.type == c.PT_DYNAMIC), None)
        if segment is None or self._without_content():
            return {}
        return read_dynamic(self.image, segment)

    def _without_content(self) -> bool:
        # Section headers are no business of the loader: it runs files in which they are damaged.
        try:
            return self.debug_only
        except ElfError:
            return False

    @cached_property
    def _dynamic(self) -> Dynamic:
        return Dynamic(self.image, self.dynamic)

    @cached_property
    def _dynamic_strings(self) -> StringTable:
        return self._dynamic.strings()

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """The DT_NEEDED names."""
        offsets = self.dynamic.get(c.DT_NEEDED)
        return tuple(self._dynamic_strings.many(offsets)) if offsets else ()

    @cached_property
    def soname(self) -> str | None:
        """The DT_SONAME."""
        offsets = self.dynamic.get(c.DT_SONAME)
        return self._dynamic_strings.get(offsets[-1]) if offsets else None

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """All notes: of the SHT_NOTE sections, or of PT_NOTE where there are no sections."""
        try:
            sections = self.sections
        except ElfError:
            sections = ()
        if sections:
            return section_notes(self._content, sections)
        return segment_notes(self._content, self.segments)

    @cached_property
    def build_id(self) -> bytes | None:
        """The linker's identification of this very build (NT_GNU_BUILD_ID)."""
        return build_id(self.notes)

    @cached_property
    def tls(self) -> Segment | None:
        """The PT_TLS segment."""
        return next((s for s in self.segments if s.type == c.PT_TLS), None)

    @cached_property
    def relocations(self) -> list[Relocation]:
        """What is relocated at load time; see hotpatch.elf.relocations."""
        if self.dynamic:
            return dynamic_relocations(self._dynamic)
        loaded = self.type in (c.ET_EXEC, c.ET_DYN) and not self._without_content()
        return static_relocations(self._content, self.sections) if loaded else []

    @cached_property
    def dynamic_symbols(self) -> SymbolTable:
        """The symbols that the loader sees, in the order in which relocations count them."""
        found = self._dynamic_section
        return SymbolTable([found] if found else [], self._section_end)

    @cached_property
    def _dynamic_section(self) -> SymbolSection | None:
        if c.DT_SYMTAB not in self.dynamic:
            return None
        used = max((r.symbol_index for r in self.relocations), default=-1) + 1
        return self._dynamic.symbols(used, self._dynamic_strings)

    @cached_property
    def symbols(self) -> SymbolTable:
        """All symbols: .symtab first, then .dynsym."""
        tables = [self._symtab(s) for s in self.sections if s.type == c.SHT_SYMTAB]
        if self._dynamic_section:
            tables.append(self._dynamic_section)
        return SymbolTable(tables, self._section_end)

    def _symtab(self, section: Section) -> SymbolSection:
        if section.link >= len(self.sections):
            raise self._content.error(f"{section.name} has no string table", section.offset)
        strings = self.sections[section.link]
        extended = (
            s.offset
            for s in self.sections
            if s.type == c.SHT_SYMTAB_SHNDX and s.link == section.index
        )
        columns = Columns(
            self._content, section.offset, section.size // SYM.size, next(extended, None)
        )
        return SymbolSection(columns, StringTable(self._content, strings.offset, strings.size))

    def _section_end(self, index: int, address: int) -> int:
        """Return where the section of a symbol at `address`, or else its segment, ends."""
        if index < len(self.sections):
            section = self.sections[index]
            return section.addr + section.size
        segment = self.image.segment(address)
        return segment.vaddr + segment.memsz if segment else 0

    @property
    def init_functions(self) -> tuple[int, ...]:
        """The virtual addresses of DT_INIT and DT_INIT_ARRAY, in the order of their calls."""
        return self._functions(c.DT_INIT) + self._array(c.DT_INIT_ARRAY, c.DT_INIT_ARRAYSZ)

    @property
    def fini_functions(self) -> tuple[int, ...]:
        """The virtual addresses of DT_FINI_ARRAY and DT_FINI, in the order of their calls."""
        array = self._array(c.DT_FINI_ARRAY, c.DT_FINI_ARRAYSZ)
        return array[::-1] + self._functions(c.DT_FINI)

    def _functions(self, tag: int) -> tuple[int, ...]:
        address = self._dynamic.value(tag)
        return (address,) if address else ()

    def _array(self, tag: int, size_tag: int) -> tuple[int, ...]:
        start, size = self._dynamic.value(tag), self._dynamic.value(size_tag)
        if not size:
            return ()
        offset = self.image.offset(start, size, "array of functions")
        raw = self._content.take(offset, size // 8 * 8, "array of functions")
        words = column(raw, "Q")
        slots = {start + 8 * i: word for i, word in enumerate(words)}
        for r in self.relocations:
            if r.offset in slots:
                slots[r.offset] = self._relocated(r, slots[r.offset])
        # Start-up files of old compilers end these lists with 0 or -1.
        return tuple(word for word in slots.values() if word not in (0, 2**64 - 1))

    def _relocated(self, relocation: Relocation, stored: int) -> int:
        addend = stored if relocation.addend is None else relocation.addend
        if relocation.type == c.R_X86_64_RELATIVE:
            return addend
        symbol = self.dynamic_symbols[relocation.symbol_index]
        if relocation.type != c.R_X86_64_64 or symbol.section == c.SHN_UNDEF:
            raise self._content.error(f"function at {relocation.offset:#x} is not in this file")
        return symbol.value + addend


def _read(fd: int, size: int) -> bytes | mmap:
    if size > _COPIED:
        return mmap(fd, 0, access=ACCESS_READ)
    with open(fd, "rb", closefd=False) as file:
        return file.read()

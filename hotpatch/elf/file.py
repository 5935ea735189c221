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
from hotpatch.elf.columns import SYM, Columns
from hotpatch.elf.content import Content, ElfError
from hotpatch.elf.dynamic import Dynamic, read_dynamic
from hotpatch.elf.header import Section, Segment, read_header, read_sections, read_segments
from hotpatch.elf.image import Image
from hotpatch.elf.initfini import fini_functions, init_functions
from hotpatch.elf.notes import Note, build_id, section_notes, segment_notes
from hotpatch.elf.relocations import Relocation, dynamic_relocations, static_relocations
from hotpatch.elf.strings import StringTable
from hotpatch.elf.symbols import SymbolTable
from hotpatch.elf.symtab import SymbolSection

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
            data = _read(fd, status.st_size, path)
        finally:
            os.close(fd)
        try:
            return cls(data, path)
        except ElfError:
            if isinstance(data, mmap):
                data.close()
            raise

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

    @cached_property
    def _readable_sections(self) -> tuple[Section, ...]:
        """The section headers; () also if they are damaged, for what the loader has to know.

        The loader doesn't look at them, so such a file runs, and can be a target.
        """
        try:
            return self.sections
        except ElfError:
            return ()

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
        code = [s for s in self._readable_sections if s.flags & flags == flags]
        return bool(code) and all(s.type == c.SHT_NOBITS for s in code)

    @cached_property
    def dynamic(self) -> dict[int, list[int]]:
        """The values of each DT_* tag of PT_DYNAMIC; {} without."""
        segment = next((s for s in self.segments if s.type == c.PT_DYNAMIC), None)
        if segment is None or self.debug_only:
            return {}
        return read_dynamic(self.image, segment)

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
        if self._readable_sections:
            return section_notes(self._content, self._readable_sections)
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
        loaded = self.type in (c.ET_EXEC, c.ET_DYN) and not self.debug_only
        return static_relocations(self._content, self._readable_sections) if loaded else []

    @cached_property
    def dynamic_symbols(self) -> SymbolTable:
        """The symbols that the loader sees, in the order in which relocations count them."""
        found = self._dynamic_section
        return SymbolTable([found] if found else [], self._section_end)

    @cached_property
    def _dynamic_section(self) -> SymbolSection | None:
        if c.DT_SYMTAB not in self.dynamic:
            return None
        address = self._dynamic.value(c.DT_SYMTAB)
        sizes = (
            s.size for s in self._readable_sections if (s.type, s.addr) == (c.SHT_DYNSYM, address)
        )
        listed = next(sizes, 0) // SYM.size
        return self._dynamic.symbols(listed, self._used_symbols, self._dynamic_strings)

    def _used_symbols(self) -> int:
        return max((r.symbol_index + 1 for r in self.relocations), default=0)

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

    @cached_property
    def init_functions(self) -> tuple[int, ...]:
        """The virtual addresses of what is called after loading, in the order of the calls."""
        return init_functions(self._dynamic, self.relocations, self.dynamic_symbols)

    @cached_property
    def fini_functions(self) -> tuple[int, ...]:
        """The virtual addresses of what is called before unloading, in the order of the calls."""
        return fini_functions(self._dynamic, self.relocations, self.dynamic_symbols)


def _read(fd: int, size: int, path: str) -> bytes | mmap:
    if size <= _COPIED:
        with open(fd, "rb", closefd=False) as file:
            return file.read(_COPIED)
    try:
        return mmap(fd, size, access=ACCESS_READ)
    except ValueError:  # what mmap says of a file that is shorter than `size` by now
        raise ElfError("shrinks while it is read", name=path) from None

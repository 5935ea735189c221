# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF header and the two tables it points to: segments and sections (gABI, chapters 4 and 5).

Only what the kernel here could run is accepted: ELF64, little-endian, x86-64.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from hotpatch.elf import constants as c
from hotpatch.elf.content import Content
from hotpatch.elf.strings import StringTable

_EHDR = Struct("<16sHHIQQQIHHHHHH")
_PHDR = Struct("<IIQQQQQQ")
_SHDR = Struct("<IIQQQQIIQQ")


class Header(NamedTuple):
    """Elf64_Ehdr, with the counts that overflow its 16 bits already looked up in section 0."""

    type: int
    machine: int
    entry: int
    phoff: int
    phnum: int
    shoff: int
    shnum: int
    shstrndx: int


class Segment(NamedTuple):
    """Elf64_Phdr; `offset`, `filesz`, `memsz` and `align` in bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


class Section(NamedTuple):
    """Elf64_Shdr with its name; `offset`, `size` and `entsize` in bytes."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


def read_header(content: Content) -> Header:
    """Return the header; ElfError for anything but a whole x86-64 ELF64 header."""
    if content.data[:4] != c.ELFMAG:
        raise content.error("not an ELF file", 0)
    ident = content.take(0, 16, "identification")
    _check_identification(content, ident)
    fields = content.unpack(_EHDR, 0, "ELF header")
    _, kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, strndx = (
        fields
    )
    if machine != c.EM_X86_64:
        raise content.error(f"for machine {machine}, not x86-64", 18)
    if phnum and phentsize != _PHDR.size:
        raise content.error(f"program headers of {phentsize} bytes, not {_PHDR.size}", 54)
    if shoff and shentsize != _SHDR.size:
        raise content.error(f"section headers of {shentsize} bytes, not {_SHDR.size}", 58)
    header = Header(kind, machine, entry, phoff, phnum, shoff, shnum if shoff else 0, strndx)
    return _extended(content, header, shnum)


def _check_identification(content: Content, ident: bytes) -> None:
    if ident[4] != c.ELFCLASS64:
        raise content.error(
            "a 32-bit file" if ident[4] == 1 else f"unknown class {ident[4]}, not 64-bit", 4
        )
    if ident[5] != c.ELFDATA2LSB:
        raise content.error("not little-endian", 5)
    if ident[6] != c.EV_CURRENT:
        raise content.error(f"unknown ELF version {ident[6]}", 6)


def _extended(content: Content, header: Header, shnum: int) -> Header:
    """Look up counts that don't fit the header (gABI: e_shnum 0, PN_XNUM, SHN_XINDEX)."""
    wants = header.phnum == c.PN_XNUM or header.shstrndx == c.SHN_XINDEX or shnum == 0
    if not header.shoff or not wants:
        return header
    first = content.unpack(_SHDR, header.shoff, "section header 0")
    return header._replace(
        phnum=first[7] if header.phnum == c.PN_XNUM else header.phnum,
        shnum=shnum or first[5],
        shstrndx=first[6] if header.shstrndx == c.SHN_XINDEX else header.shstrndx,
    )


def read_segments(content: Content, header: Header) -> tuple[Segment, ...]:
    """Return the program headers. That their content is in the file is not checked here:
    in a separate debug file it isn't."""
    table = content.take(header.phoff, header.phnum * _PHDR.size, "program header table")
    segments = []
    for index, row in enumerate(_PHDR.iter_unpack(table)):
        kind, flags, offset, vaddr, _, filesz, memsz, align = row
        where = header.phoff + index * _PHDR.size
        if kind == c.PT_LOAD and (filesz > memsz or vaddr + memsz > 1 << 64):
            raise content.error(f"program header {index}: impossible size", where)
        segments.append(Segment(kind, flags, offset, vaddr, filesz, memsz, align))
    return tuple(segments)


def read_sections(content: Content, header: Header) -> tuple[Section, ...]:
    """Return the section headers with their names; () for a file without."""
    if not header.shnum:
        return ()
    table = content.take(header.shoff, header.shnum * _SHDR.size, "section header table")
    rows = list(_SHDR.iter_unpack(table))
    names = _section_names(content, header, rows)
    return tuple(
        Section(index, name, *row[1:])
        for index, (name, row) in enumerate(zip(names, rows, strict=True))
    )


def _section_names(content: Content, header: Header, rows: list[tuple[int, ...]]) -> list[str]:
    if header.shstrndx == c.SHN_UNDEF:
        return [""] * len(rows)
    if header.shstrndx >= len(rows):
        raise content.error(f"section names in section {header.shstrndx} of {len(rows)}", 62)
    _, _, _, _, offset, size, *_ = rows[header.shstrndx]
    return StringTable(content, offset, size).many(row[0] for row in rows)

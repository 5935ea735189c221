# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files made in memory, for what compilers don't make on demand.

Addresses are file offsets: one PT_LOAD maps the whole file at 0, so that a test can tell
where everything is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hotpatch.elf import constants as c

EHDR, PHDR, SHDR = 64, 56, 64
FIRST = 0x1000  # where the first part lies


class Part(NamedTuple):
    """A section, and its segment where there is one for its type."""

    name: str
    type: int
    data: bytes
    flags: int = c.SHF_ALLOC
    link: int = 0
    info: int = 0
    addr: int | None = None
    size: int | None = None
    align: int = 8


class Sym(NamedTuple):
    """A symbol to be; `name` may be an offset into the string table."""

    name: str | int
    value: int = 0
    size: int = 0
    type: int = c.STT_FUNC
    bind: int = c.STB_GLOBAL
    section: int = 1
    other: int = 0


def strings(names: Iterable[str]) -> tuple[bytes, dict[str, int]]:
    """Return a string table and the offset of each name."""
    table, offsets = b"\0", {"": 0}
    for name in names:
        if name not in offsets:
            offsets[name] = len(table)
            table += name.encode("utf-8", "surrogateescape") + b"\0"
    return table, offsets


def symbols(rows: Sequence[Sym], table: bytes | None = None) -> tuple[bytes, bytes]:
    """Return a symbol table, with its null symbol, and its string table."""
    made, offsets = strings(row.name for row in rows if isinstance(row.name, str))
    raw = bytes(24)
    for row in rows:
        name = offsets[row.name] if isinstance(row.name, str) else row.name
        info = row.bind << 4 | row.type
        raw += struct.pack("<IBBHQQ", name, info, row.other, row.section, row.value, row.size)
    return raw, made if table is None else table


def symtab(rows: Sequence[Sym], *more: Part, table: bytes | None = None) -> bytes:
    """Return a file with a .text of 0x1000 bytes, which is section 1, and a .symtab of `rows`."""
    raw, names = symbols(rows, table)
    text = Part(".text", c.SHT_PROGBITS, bytes(0x1000), c.SHF_ALLOC | c.SHF_EXECINSTR)
    table_part = Part(".symtab", c.SHT_SYMTAB, raw, 0, link=3)
    return build([text, table_part, Part(".strtab", c.SHT_STRTAB, names, 0), *more])


def dynamic(entries: Iterable[tuple[int, int]]) -> Part:
    """Return a .dynamic with DT_NULL at its end."""
    data = b"".join(struct.pack("<QQ", *entry) for entry in [*entries, (c.DT_NULL, 0)])
    return Part(".dynamic", c.SHT_DYNAMIC, data)


def offsets_of(parts: Sequence[Part]) -> list[int]:
    """Return where `build` puts each of `parts`."""
    offsets, at = [], FIRST
    for part in parts:
        offsets.append(at)
        at = (at + len(part.data) + 15) & -16
    return offsets


def build(parts: Sequence[Part], sections: bool = True, kind: int = c.ET_DYN) -> bytes:
    """Return the file; without section headers if `sections` is false."""
    names, name_offsets = strings([*(part.name for part in parts), ".shstrtab"])
    parts = [*parts, Part(".shstrtab", c.SHT_STRTAB, names, 0)]
    body, headers = bytearray(FIRST), [bytes(SHDR)]
    phdrs: list[tuple[int, ...]] = []
    for part, offset in zip(parts, offsets_of(parts), strict=True):
        body += bytes(offset - len(body)) + part.data
        addr = offset if part.addr is None else part.addr
        size = len(part.data) if part.size is None else part.size
        fields = part.type, part.flags, addr, offset, size, part.link, part.info, part.align, 0
        headers.append(struct.pack("<IIQQQQIIQQ", name_offsets[part.name], *fields))
        if part.type in (c.SHT_DYNAMIC, c.SHT_NOTE):
            segment = {c.SHT_DYNAMIC: c.PT_DYNAMIC, c.SHT_NOTE: c.PT_NOTE}[part.type]
            phdrs.append((segment, 4, offset, addr, addr, size, size, part.align))
    shoff = (len(body) + 7) & -8
    body += bytes(shoff - len(body)) + b"".join(headers if sections else [])
    phdrs.insert(0, (c.PT_LOAD, 7, 0, 0, 0, len(body), len(body) + 0x1000, 0x1000))
    table = b"".join(struct.pack("<IIQQQQQQ", *phdr) for phdr in phdrs)
    body[EHDR : EHDR + len(table)] = table
    count = len(headers) if sections else 0
    body[:EHDR] = ehdr(kind, len(phdrs), shoff if sections else 0, count)
    return bytes(body)


def ehdr(kind: int, phnum: int, shoff: int, shnum: int) -> bytes:
    """Return the ELF header; the last section holds the names of sections."""
    ident = c.ELFMAG + bytes((c.ELFCLASS64, c.ELFDATA2LSB, c.EV_CURRENT)) + bytes(9)
    last = shnum - 1 if shnum else 0
    fields = kind, c.EM_X86_64, 1, 0, EHDR, shoff, 0, EHDR, PHDR, phnum, SHDR, shnum, last
    return struct.pack("<16sHHIQQQIHHHHHH", ident, *fields)

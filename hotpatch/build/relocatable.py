# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing an object file (ET_REL; gABI, chapters 4 and 5): `write`."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct

from hotpatch.elf import constants as c

_EHDR = Struct("<16sHHIQQQIHHHHHH")
_SHDR = Struct("<IIQQQQIIQQ")
_SYM = Struct("<IBBHQQ")
_RELA = Struct("<QQq")


@dataclass(eq=False)
class Sym:
    """A symbol at `value` of a section, or undefined."""

    name: str
    section: Sec | None = None
    value: int = 0
    size: int = 0
    type: int = c.STT_NOTYPE
    bind: int = c.STB_LOCAL
    visibility: int = c.STV_DEFAULT


@dataclass(eq=False)
class Sec:
    """A section: `data`, or of a bss the `size`; `relocations`: (offset, type, symbol, addend)."""

    name: str
    type: int
    flags: int
    align: int
    data: bytes = b""
    size: int = 0
    entsize: int = 0
    relocations: list[tuple[int, int, Sym, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the symbol that stands for the section."""
        self.symbol = Sym("", self, type=c.STT_SECTION)


def write(sections: list[Sec], symbols: list[Sym]) -> bytes:
    """Return an object file of these; symbols of sections need not be named among `symbols`."""
    symbols = [*(s.symbol for s in sections), *symbols]
    symbols.sort(key=lambda symbol: symbol.bind != c.STB_LOCAL)  # gABI: local ones come first
    strings, names = _Strings(), _Strings()
    index = {id(section): number for number, section in enumerate(sections, 1)}
    row = {id(symbol): number for number, symbol in enumerate(symbols, 1)}
    table = bytes(_SYM.size) + b"".join(
        _SYM.pack(
            strings.add(s.name),
            s.bind << 4 | s.type,
            s.visibility,
            index[id(s.section)] if s.section else c.SHN_UNDEF,
            s.value,
            s.size,
        )
        for s in symbols
    )
    local = 1 + sum(symbol.bind == c.STB_LOCAL for symbol in symbols)
    relocated = [section for section in sections if section.relocations]
    symtab = len(sections) + len(relocated) + 1
    chunks: list[tuple[Sec, int, int]] = [(section, 0, 0) for section in sections]
    for section in relocated:
        rows = b"".join(
            _RELA.pack(offset, row[id(symbol)] << 32 | type_, addend)
            for offset, type_, symbol, addend in sorted(section.relocations, key=lambda r: r[:2])
        )
        name = ".rela" + section.name
        rela = Sec(name, c.SHT_RELA, c.SHF_INFO_LINK, 8, rows, entsize=_RELA.size)
        chunks.append((rela, symtab, index[id(section)]))
    chunks.append((Sec(".symtab", c.SHT_SYMTAB, 0, 8, table, entsize=_SYM.size), symtab + 1, local))
    chunks.append((Sec(".strtab", c.SHT_STRTAB, 0, 1, bytes(strings.data)), 0, 0))
    for section, _, _ in chunks:
        names.add(section.name)
    names.add(".shstrtab")
    chunks.append((Sec(".shstrtab", c.SHT_STRTAB, 0, 1, bytes(names.data)), 0, 0))
    return _file(chunks, names)


def _file(chunks: list[tuple[Sec, int, int]], names: _Strings) -> bytes:
    body = bytearray(_EHDR.size)
    headers = [bytes(_SHDR.size)]
    for section, link, info in chunks:
        body += bytes(-len(body) % max(section.align, 1))
        size = len(section.data) if section.type != c.SHT_NOBITS else section.size
        headers.append(
            _SHDR.pack(
                names.add(section.name),
                section.type,
                section.flags,
                0,
                len(body),
                size,
                link,
                info,
                section.align,
                section.entsize,
            )
        )
        body += section.data if section.type != c.SHT_NOBITS else b""
    body += bytes(-len(body) % 8)
    ident = c.ELFMAG + bytes((c.ELFCLASS64, c.ELFDATA2LSB, c.EV_CURRENT)) + bytes(9)
    shoff, count = len(body), len(headers)
    body[: _EHDR.size] = _EHDR.pack(
        ident, c.ET_REL, c.EM_X86_64, 1, 0, 0, shoff, 0, 64, 0, 0, _SHDR.size, count, count - 1
    )
    return bytes(body) + b"".join(headers)


class _Strings:
    """A string table; each string is in it once."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._known: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self._known[text]

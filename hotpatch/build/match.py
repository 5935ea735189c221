# SPDX-License-Identifier: GPL-2.0-or-later
"""Run-pre matching: where the code of an object file lies in the binary (Ksplice, section 4.3).

The object is compiled as the binary's own was. Its sections of code are found again whole: their
bytes are equal, but for the fields of relocations and for what linkers make shorter (psABI,
B.2 "Optimize GOTPCRELX Relocations"; "ELF Handling for Thread-Local Storage", 5). What these fields
hold tells where everything lies that the code refers to, static variables among them, whether
or not there is a symbol table. That also proves that the binary was made of this source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.build.atoms import CODE, THREAD, Atom, is_merged
from hotpatch.build.binary import Binary
from hotpatch.build.objects import Object
from hotpatch.elf import constants as c
from hotpatch.elf.content import ElfError
from hotpatch.elf.header import Section
from hotpatch.elf.symbols import Symbol

_SHORTEST_SEARCH = 4
_LEAST_CODE = 8  # bytes without relocations, for a section to be told from others
_MOST_PLACES = 64
# How many bytes before and behind the beginning of its field a relocation lets the linker change.
_CHANGED = {
    r.R_X86_64_GOTPCREL: (3, 4),
    r.R_X86_64_GOTPCRELX: (2, 4),
    r.R_X86_64_REX_GOTPCRELX: (3, 4),
    r.R_X86_64_GOTTPOFF: (3, 4),
    r.R_X86_64_TLSGD: (4, 12),
    r.R_X86_64_TLSLD: (3, 9),
    r.R_X86_64_GOTPC32_TLSDESC: (3, 4),
    r.R_X86_64_TLSDESC_CALL: (0, 2),
}
_LEA, _MOV_IMMEDIATE = 0x8D, 0xC7
_READ_THREAD_POINTER = b"\x64\x48\x8b\x04"  # of mov %fs:0, %rax


class Mismatch(NamedTuple):
    """A function whose code is not that of the object: first difference at `offset` of it."""

    function: str
    offset: int
    expected: bytes
    found: bytes


class Match:
    """Where one object's atoms lie in a binary; virtual addresses."""

    def __init__(self, obj: Object, binary: Binary) -> None:
        """Find the sections of `obj` in `binary`; raises ElfError for a damaged file."""
        self.object = obj
        self.binary = binary
        self.mismatches: list[Mismatch] = []
        self.bases: dict[int, int] = {}
        """Virtual addresses of sections, by index."""
        self.named: dict[str, int] = {}
        """Those of symbols that the code refers to by name."""
        self._code = [
            s
            for s in obj.elf.sections
            if s.flags & c.SHF_ALLOC and s.flags & c.SHF_EXECINSTR and s.size
        ]
        self._run()

    def address(self, atom: Atom) -> int | None:
        """Return where an atom of the object lies, None where that is not known.

        A thread-local variable lies at an offset in its block.
        """
        base = self.bases.get(atom.section.index)
        if base is not None:
            return base + atom.start
        for symbol in atom.symbols:
            if symbol.name in self.named:
                return self.named[symbol.name]
        return self._listed(atom)

    @property
    def score(self) -> float:
        """Return which share of the code was found; less than 0 where it can't be the binary's.

        That is where nothing was found, and most names of its functions are not known either.
        """
        size = sum(section.size for section in self._code)
        found = sum(section.size for section in self._code if section.index in self._verified)
        if found or not size:
            return found / max(size, 1)
        functions = [atom for atom in self.object.atoms if atom.kind == CODE and atom.symbols]
        known = sum(any(self._function_places(atom)) for atom in functions)
        return 0.0 if 2 * known >= len(functions) else -1.0

    def placed(self, section: Section) -> bool:
        """Tell whether a section of code was found, byte for byte."""
        return section.index in self._verified

    def placed_code(self) -> list[Section]:
        """Return the sections of code that were found."""
        return [section for section in self._code if self.placed(section)]

    def span(self, section: Section) -> tuple[int, int]:
        """Return where a section that was found begins and ends."""
        base = self.bases[section.index]
        return base, base + section.size

    def _listed(self, atom: Atom) -> int | None:
        """Return the address that the binary's symbol tables give for data."""
        if atom.kind == CODE:
            return None
        for symbol in atom.symbols:
            same = self.binary.symbols.get(symbol.name, [])
            same = [s for s in same if (s.type == c.STT_TLS) == (atom.kind == THREAD)]
            if symbol.bind == c.STB_LOCAL:
                same = [s for s in same if s.file in (None, symbol.file)]
            if len(same) == 1:
                return same[0].value
        return None

    @cached_property
    def _verified(self) -> set[int]:
        return set()

    def _run(self) -> None:
        """Place sections as long as one leads to another; then those that have to be searched."""
        left = list(self._code)
        for candidates in (self._told, self._told, self._searched):
            progress = True
            while progress:
                rest = [s for s in left if not self._place(s, candidates(s))]
                progress = len(rest) < len(left)
                left = rest
        for section in left:
            if any(self._symbol_places(section)):
                self._explain(section)

    def _place(self, section: Section, candidates: Iterator[int]) -> bool:
        for base in candidates:
            if self._differs(section, base) is None and self._take(section, base):
                return True
        return False

    def _told(self, section: Section) -> Iterator[int]:
        """Yield where references and symbol tables say that a section lies, the likeliest first."""
        if section.index in self.bases:
            yield self.bases[section.index]
        yield from self._symbol_places(section)

    def _symbol_places(self, section: Section) -> Iterator[int]:
        votes: Counter[int] = Counter()
        for atom in self._atoms(section):
            for symbol in atom.symbols:
                if symbol.name in self.named:
                    votes[self.named[symbol.name] - symbol.value] += 2
                for known in self.binary.symbols.get(symbol.name, ()):
                    if known.type in (c.STT_FUNC, c.STT_GNU_IFUNC, c.STT_NOTYPE):
                        votes[known.value - symbol.value] += 1
        yield from (base for base, _ in votes.most_common(_MOST_PLACES))

    def _searched(self, section: Section) -> Iterator[int]:
        """Yield the one place where a section's longest piece without relocations occurs."""
        start, needle = self._literal(section)
        fixed = section.size - sum(end - begin for begin, end in self._holes(section))
        if len(needle) < _SHORTEST_SEARCH or fixed < _LEAST_CODE:
            return
        found = []
        for address in self.binary.find_code(needle):
            if self._differs(section, address - start) is None:
                found.append(address - start)
            if len(found) > 1:
                return
        yield from found

    def _literal(self, section: Section) -> tuple[int, bytes]:
        data, best, last = self.object.section_data(section), (0, 0), 0
        for begin, end in [*self._holes(section), (len(data), len(data))]:
            best = max(best, (begin - last, -last))
            last = max(last, end)
        size, start = best
        return -start, data[-start : -start + size]

    def _atoms(self, section: Section) -> list[Atom]:
        return [atom for atom in self.object.atoms if atom.section.index == section.index]

    def _holes(self, section: Section) -> list[tuple[int, int]]:
        """Return the stretches of a section that the linker fills, or may change."""
        holes = []
        for row in self.object.relocations(section.index):
            before, behind = _CHANGED.get(row.type, (0, r.field_size(row.type)))
            holes.append((row.offset - before, row.offset + behind))
        return holes

    def _differs(self, section: Section, base: int) -> int | None:
        """Return the first offset at which the code at `base` is another, None for none."""
        if not self.binary.holds(base, section.size):
            return 0
        data = self.object.section_data(section)
        live = self.binary.read(base, section.size)
        last = 0
        for begin, end in [*self._holes(section), (len(data), len(data))]:
            if data[last:begin] != live[last:begin]:
                return next(i for i in range(last, begin) if data[i] != live[i])
            last = max(last, end)
        return None

    def _take(self, section: Section, base: int) -> bool:
        """Take a place, unless what follows from it contradicts what is known."""
        live = self.binary.read(base, section.size)
        bases, named = {section.index: base}, dict[str, int]()
        for row in self.object.relocations(section.index):
            symbol = self.object.symbols[row.symbol]
            value = self._value(row, live, base)
            if value is None:
                continue
            where = self._defined(symbol)
            if where is None:
                if self._known(symbol, named.setdefault(symbol.name, value), value):
                    continue
                return False
            start = value - symbol.value
            if bases.setdefault(where, start) != start or self.bases.get(where, start) != start:
                return False
        self.bases.update(bases)
        self.named.update(named)
        self._verified.add(section.index)
        return True

    def _known(self, symbol: Symbol, first: int, value: int) -> bool:
        return first == value == self.named.get(symbol.name, value)

    def _defined(self, symbol: Symbol) -> int | None:
        """Return the section that a symbol lies in as the compiler wrote it, None for others."""
        if symbol.section in (c.SHN_UNDEF, c.SHN_ABS, c.SHN_COMMON):
            return None
        if symbol.type == c.STT_TLS or symbol.bind != c.STB_LOCAL:
            return None  # a global one may be another's: a copy in the program, a PLT entry
        return symbol.section

    def _value(self, row: r.Entry, live: bytes, base: int) -> int | None:
        """Return the address of a relocation's symbol by what the linker stored for it."""
        symbol = self.object.symbols[row.symbol]
        if not self._has_place(symbol):
            return None
        field = live[row.offset : row.offset + r.field_size(row.type)]
        stored = int.from_bytes(field, "little", signed=True)
        place = base + row.offset
        if row.type in (r.R_X86_64_PC32, r.R_X86_64_PLT32, r.R_X86_64_PC64):
            return place + stored - row.addend
        if row.type in (r.R_X86_64_32, r.R_X86_64_32S):
            value = stored & 0xFFFF_FFFF if row.type == r.R_X86_64_32 else stored
            return value - row.addend if self.binary.elf.type == c.ET_EXEC else None
        if row.type in r.GOT_TYPES:
            address = place + stored + 4
            opcode = live[row.offset - 2]
            return address if opcode in (_LEA, 0x67) else self.binary.pointer(address)
        return self._thread_value(row, live, place, stored)

    def _thread_value(self, row: r.Entry, live: bytes, place: int, stored: int) -> int | None:
        """Return the offset of a thread-local variable in its block.

        Of a program the linker knows the distance from the thread pointer, and makes code of it
        that needs no slots ("ELF Handling for Thread-Local Storage", 5).
        """
        block, at = self.binary.thread_block, row.offset
        if row.type == r.R_X86_64_TPOFF32:
            return stored - row.addend + block
        if row.type == r.R_X86_64_DTPOFF32:
            return stored - row.addend + (block if self.binary.program else 0)
        if row.type not in (r.R_X86_64_GOTTPOFF, r.R_X86_64_TLSGD, r.R_X86_64_GOTPC32_TLSDESC):
            return None
        if row.type == r.R_X86_64_TLSGD and live[at - 4 : at] == _READ_THREAD_POINTER:
            local = live[at + 6] == _LEA
            distance = int.from_bytes(live[at + 8 : at + 12], "little", signed=True)
            return distance + block if local else None
        if live[at - 2] == _MOV_IMMEDIATE:
            return stored + block
        return self.binary.thread_offset(place + stored + 4)

    def _has_place(self, symbol: Symbol) -> bool:
        """Tell whether a symbol stands for something that lies in the binary as it does here."""
        if not 0 < symbol.section < len(self.object.elf.sections):
            # Of the calls of __tls_get_addr the linker of a program leaves none.
            return symbol.name not in ("", "__tls_get_addr")
        section = self.object.elf.sections[symbol.section]
        placed = not is_merged(section) and bool(section.flags & c.SHF_ALLOC)
        return placed and (bool(symbol.name) or symbol.type == c.STT_SECTION)

    def _explain(self, section: Section) -> None:
        """Note which functions of a section differ from the binary's of that name."""
        base = next(self._symbol_places(section))
        holes = self._holes(section)
        for atom in self._atoms(section):
            places = self._function_places(atom) or [base + atom.start]
            differ = [self._difference(atom, address, holes) for address in places]
            if differ[0] and all(differ):
                self.mismatches.append(differ[0])

    def _function_places(self, atom: Atom) -> list[int]:
        names = [symbol.name for symbol in atom.symbols]
        return [s.value for name in names for s in self.binary.symbols.get(name, ())]

    def _difference(
        self, atom: Atom, address: int, holes: list[tuple[int, int]]
    ) -> Mismatch | None:
        data = bytearray(self.object.data(atom))
        try:
            live = bytearray(self.binary.read(address, len(data)))
        except ElfError:
            live = bytearray(len(data))
        for begin, end in holes:
            first, last = max(begin - atom.start, 0), min(end - atom.start, len(data))
            if first < last:
                data[first:last] = live[first:last] = bytes(last - first)
        if data == live:
            return None
        at = next(i for i in range(len(data)) if data[i] != live[i])
        return Mismatch(atom.name or "?", at, bytes(data[at : at + 16]), bytes(live[at : at + 16]))

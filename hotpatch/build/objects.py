# SPDX-License-Identifier: GPL-2.0-or-later
"""Object files as compilers write them: `Object`, its atoms, and what they refer to.

An *atom* is what the linker could place by itself: a function, a variable, an unnamed constant.
Where the compiler gave each a section of its own (-ffunction-sections, -fdata-sections) the atoms
are the sections; else a section is taken apart at its symbols. Constants and strings in mergeable
sections (gABI, SHF_MERGE) are no atoms: a reference to one is a reference to its content.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.build.atoms import CODE, Atom, is_entry, is_merged, literal_at, split
from hotpatch.build.code import decoded_ends, distances, is_branch
from hotpatch.build.relocatable import write
from hotpatch.elf import constants as c
from hotpatch.elf.content import Content, ElfError
from hotpatch.elf.file import ElfFile
from hotpatch.elf.header import Section
from hotpatch.elf.relocations import read_rela
from hotpatch.elf.symbols import Symbol

_DEFINING = (c.STT_FUNC, c.STT_GNU_IFUNC, c.STT_OBJECT, c.STT_TLS, c.STT_NOTYPE)

_NOT_ATOMS = (".eh_frame", ".note", ".stapsdt", ".comment", ".group", "__patchable")


class Reference(NamedTuple):
    """A relocation within an atom, and what it is about.

    `offset` is that of the field in the atom. The psABI's S + A is the address of what is referred
    to, and `delta` more: of `atom`; of the literal; else of the symbol, which another file defines.
    """

    offset: int
    type: int
    symbol: Symbol
    delta: int
    atom: int | None
    literal: bytes | None
    branch: bool
    """Whether the field is that of a call or a jump: it takes no address."""
    entry: bool
    """Whether it is about the beginning of the atom, not something within, as in a jump table."""


class Object:
    """One object file (ET_REL)."""

    def __init__(self, path: str, elf: ElfFile | None = None) -> None:
        """Read the file at `path`; raises ElfError and OSError."""
        self.path = path
        self.elf = elf or ElfFile.open(path)
        if self.elf.type != c.ET_REL:
            raise ElfError("no object file (ET_REL)", name=path)
        self.symbols = list(self.elf.symbols)
        self._content = Content(self.elf.data, path)

    @classmethod
    def empty(cls) -> Object:
        """Return the object of a source file that does not exist."""
        return cls("nothing", ElfFile.from_bytes(write([], [])))

    @cached_property
    def atoms(self) -> list[Atom]:
        """All atoms; the number of each is its place."""
        atoms: list[Atom] = []
        by_section = self._symbols_by_section
        for section in self.elf.sections:
            loaded = section.flags & c.SHF_ALLOC and section.size and not is_merged(section)
            if loaded and not section.name.startswith(_NOT_ATOMS):
                atoms += split(section, by_section[section.index], len(atoms))
        return atoms

    @cached_property
    def by_name(self) -> dict[str, Atom]:
        """The atoms by each of their names."""
        return {symbol.name: atom for atom in self.atoms for symbol in atom.symbols}

    def data(self, atom: Atom) -> bytes:
        """Return the content of an atom; zeros in a bss."""
        return self.section_data(atom.section)[atom.start : atom.stop]

    def section_data(self, section: Section) -> bytes:
        """Return the content of a section; zeros for a bss."""
        if section.type == c.SHT_NOBITS:
            return bytes(section.size)
        if section.index not in self._data:
            self._data[section.index] = self.elf.section_data(section)
        return self._data[section.index]

    def references(self, atom: Atom) -> list[Reference]:
        """Return what an atom refers to, by offset; raises ElfError for relocations of nothing."""
        if atom.number not in self._references:
            found = [
                self.reference(atom.section, row, atom.start)
                for row in self.relocations(atom.section.index)
                if atom.start <= row.offset < atom.stop
            ]
            self._references[atom.number] = sorted(
                [*found, *self._resolved(atom)], key=lambda reference: reference.offset
            )
        return self._references[atom.number]

    def _resolved(self, atom: Atom) -> Iterator[Reference]:
        """Yield what the assembler resolved by itself: distances to other atoms of the section."""
        if atom.kind != CODE or len(self._by_section[atom.section.index]) <= 1:
            return
        rows = self.relocations(atom.section.index)
        relocated = {row.offset for row in rows}
        for distance in distances(self.section_data(atom.section)[: atom.stop], atom.start):
            if distance.offset in relocated or atom.start <= distance.target < atom.stop:
                continue
            number = self._covering(atom.section, distance.target)
            if number is None:
                continue
            other = self.atoms[number]
            type_ = r.R_X86_64_PC32 if distance.size == 4 else r.R_X86_64_PC8
            # S + A is the target, less what is between the field and its instruction's end.
            delta = distance.target - other.start - (distance.end - distance.offset)
            symbol = next(iter(other.symbols), None)
            if symbol is not None:
                entry = distance.target == other.start
                yield Reference(
                    distance.offset - atom.start,
                    type_,
                    symbol,
                    delta,
                    number,
                    None,
                    distance.branch,
                    entry,
                )

    def _covering(self, section: Section, offset: int) -> int | None:
        numbers = self._by_section[section.index]
        at = bisect_right([self.atoms[number].start for number in numbers], offset) - 1
        found = at >= 0 and self.atoms[numbers[at]].start <= offset < self.atoms[numbers[at]].stop
        return numbers[at] if found else None

    def relocations(self, section: int) -> list[r.Entry]:
        """Return the relocations of a section, by offset."""
        return self._relocations.get(section, [])

    def reference(self, section: Section, row: r.Entry, start: int) -> Reference:
        """Return what a relocation in `section` is about, with offsets counted from `start`."""
        symbol = self._symbol(row.symbol)
        branch = bool(section.flags & c.SHF_EXECINSTR) and is_branch(
            self.section_data(section), row.offset
        )
        offset = row.offset - start
        target = self._section(symbol)
        if target is None or symbol.type == c.STT_TLS:
            atom = self._own(symbol)
            entry = is_entry(section, row.type, row.addend)
            return Reference(offset, row.type, symbol, row.addend, atom, None, branch, entry)
        value = symbol.value + row.addend
        if is_merged(target):
            point = symbol.value if symbol.type != c.STT_SECTION else self._point(section, row)
            literal = literal_at(self.section_data(target), point, target)
            return Reference(offset, row.type, symbol, value - point, None, literal, branch, True)
        found = self._atom_at(target, symbol, section, row)
        if found is None:
            return Reference(offset, row.type, symbol, row.addend, None, None, branch, False)
        delta = value - self.atoms[found].start
        entry = is_entry(section, row.type, delta)
        return Reference(offset, row.type, symbol, delta, found, None, branch, entry)

    def _own(self, symbol: Symbol) -> int | None:
        """Return the atom that a symbol is the name of, where this object defines it."""
        if symbol.section in (c.SHN_UNDEF, c.SHN_ABS, c.SHN_COMMON):
            return None
        atom = self.by_name.get(symbol.name)
        return atom.number if atom else None

    def _atom_at(
        self, target: Section, symbol: Symbol, section: Section, row: r.Entry
    ) -> int | None:
        numbers = self._by_section[target.index]
        if len(numbers) <= 1:
            return numbers[0] if numbers else None
        point = symbol.value if symbol.type != c.STT_SECTION else self._point(section, row)
        at = bisect_right([self.atoms[number].start for number in numbers], point) - 1
        return numbers[max(at, 0)]

    def _point(self, section: Section, row: r.Entry) -> int:
        """Return the offset in a section that a relocation with the section's symbol is about.

        Distances are counted from the end of the instruction, which is behind the field and the
        instruction's immediate operand; compilers put that into the addend.
        """
        value = self._symbol(row.symbol).value + row.addend
        if row.type not in r.DISTANCES or not section.flags & c.SHF_EXECINSTR:
            return value
        ends = self._ends(section)
        at = bisect_right(ends, row.offset)
        return value + (ends[at] - row.offset if at < len(ends) else 4)

    def _ends(self, section: Section) -> list[int]:
        if section.index not in self._instruction_ends:
            self._instruction_ends[section.index] = decoded_ends(self.section_data(section))
        return self._instruction_ends[section.index]

    def _symbol(self, row: int) -> Symbol:
        if row >= len(self.symbols):
            raise ElfError(f"a relocation with symbol {row} of {len(self.symbols)}", name=self.path)
        return self.symbols[row]

    def _section(self, symbol: Symbol) -> Section | None:
        reserved = (c.SHN_UNDEF, c.SHN_ABS, c.SHN_COMMON)
        if symbol.section in reserved or symbol.section >= len(self.elf.sections):
            return None
        return self.elf.sections[symbol.section]

    @cached_property
    def _by_section(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for atom in self.atoms:
            found[atom.section.index].append(atom.number)
        return found

    @cached_property
    def _symbols_by_section(self) -> dict[int, list[Symbol]]:
        found: dict[int, list[Symbol]] = defaultdict(list)
        for symbol in self.symbols:
            if symbol.name and symbol.type in _DEFINING and not symbol.name.startswith(".L"):
                found[symbol.section].append(symbol)
        return found

    @cached_property
    def _relocations(self) -> dict[int, list[r.Entry]]:
        found: dict[int, list[r.Entry]] = {}
        for section in self.elf.sections:
            if section.type == c.SHT_RELA:
                rows = read_rela(self._content, section.offset, section.size)
                entries = (
                    r.Entry(row.offset, row.type, row.symbol_index, row.addend or 0) for row in rows
                )
                found[section.info] = sorted(entries)
        return found

    @cached_property
    def _data(self) -> dict[int, bytes]:
        return {}

    @cached_property
    def _references(self) -> dict[int, list[Reference]]:
        return {}

    @cached_property
    def _instruction_ends(self) -> dict[int, list[int]]:
        return {}

# SPDX-License-Identifier: GPL-2.0-or-later
"""Atoms: what sections of object files are taken apart into (see `hotpatch.build.objects`)."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.elf import constants as c
from hotpatch.elf.content import ElfError
from hotpatch.elf.header import Section
from hotpatch.elf.symbols import Symbol

CODE, CONSTANT, DATA, THREAD = "function", "constant", "variable", "thread-local variable"
"""What an atom is."""

_FIELD_AHEAD = -4  # distances are counted from behind their field
_RANK = {c.STT_FUNC: 0, c.STT_GNU_IFUNC: 0, c.STT_OBJECT: 1, c.STT_TLS: 1}


class Atom(NamedTuple):
    """A function, a variable or a constant: `start` to `stop` of a section, in bytes."""

    number: int
    kind: str
    section: Section
    start: int
    stop: int
    symbols: tuple[Symbol, ...]
    """Those that stand for its beginning, the best known first; () for what has no name."""

    @property
    def name(self) -> str | None:
        """Return the name it is known by."""
        return self.symbols[0].name if self.symbols else None

    @property
    def size(self) -> int:
        """Return its size in bytes."""
        return self.stop - self.start

    @property
    def local(self) -> bool:
        """Tell whether only its own source file knows the name."""
        return all(symbol.bind == c.STB_LOCAL for symbol in self.symbols)


def is_entry(section: Section, type_: int, delta: int) -> bool:
    """Tell whether a reference from `section` to a function is about its first instruction.

    In data, a distance is one of a jump table's; function pointers are addresses.
    """
    if type_ not in r.DISTANCES:
        return delta == 0
    return bool(section.flags & c.SHF_EXECINSTR) and delta == _FIELD_AHEAD


def is_merged(section: Section) -> bool:
    """Tell whether a section holds constants or strings that linkers merge."""
    return bool(section.flags & c.SHF_MERGE) and not section.flags & c.SHF_WRITE


def literal_at(data: bytes, point: int, section: Section) -> bytes:
    """Return the string or constant at an offset of a mergeable section; raises ElfError."""
    if not 0 <= point <= len(data):
        raise ElfError(f"a reference to {point:#x} of {section.name}, which has {len(data)} bytes")
    width = max(section.entsize, 1)
    if not section.flags & c.SHF_STRINGS:
        return data[point : point + width]
    end = point
    while end < len(data) and any(data[end : end + width]):
        end += width
    return data[point : end + width]


def split(section: Section, symbols: list[Symbol], first: int) -> list[Atom]:
    """Return the atoms of a section; what lies between its symbols has no name.

    `first` is the number of the first one.
    """
    kind = _kind(section)
    named: dict[int, list[Symbol]] = defaultdict(list)
    for symbol in symbols:
        if symbol.value < section.size:
            named[symbol.value].append(symbol)
    for same in named.values():
        same.sort(key=lambda s: (_RANK.get(s.type, 2), s.bind == c.STB_LOCAL, s.name))
    starts = sorted(named)
    if not starts:
        return [Atom(first, kind, section, 0, section.size, ())]
    atoms: list[Atom] = []

    def add(start: int, stop: int, names: tuple[Symbol, ...]) -> None:
        if stop > start:
            atoms.append(Atom(first + len(atoms), kind, section, start, stop, names))

    add(0, starts[0], ())
    for start, end in zip(starts, [*starts[1:], section.size], strict=True):
        names = tuple(named[start])
        size = max(symbol.size for symbol in names)
        stop = min(end, start + size) if size and len(starts) > 1 else end
        add(start, stop, names)
        if kind != CODE:  # between functions there is only padding
            add(stop, end, ())
    return atoms


def _kind(section: Section) -> str:
    if section.flags & c.SHF_EXECINSTR:
        return CODE
    if section.flags & c.SHF_TLS:
        return THREAD
    if not section.flags & c.SHF_WRITE or section.name.startswith(".data.rel.ro"):
        return CONSTANT
    return DATA

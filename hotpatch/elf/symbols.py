# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols by name, by address and in bulk.

A `SymbolTable` stands for one or several tables of a file (`.symtab` and `.dynsym`); what is in
both is answered once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import compress, repeat

from hotpatch.elf import constants as c
from hotpatch.elf.addresses import AddressIndex
from hotpatch.elf.columns import Columns
from hotpatch.elf.content import ElfError
from hotpatch.elf.strings import encode
from hotpatch.elf.symtab import Symbol, SymbolSection

__all__ = ["Symbol", "SymbolTable"]

# What gcc and clang append, behind a dot, to the name of a function for the parts and clones they
# make of it.
_PART = rb"(?:cold|part|constprop|isra)(?:\.\d+)?"
_FRAGMENT = re.compile(_PART + rb"(?:\." + _PART + rb")*\0")
# What they append to a static's: one within a function (counter.0), one made unique by the linker.
_NUMBER = re.compile(rb"(?:lto_priv\.)?\d+\0")
# clang puts the function before the static (compute.counter), and numbers what is there twice.
_WITHIN = re.compile(rb"(?:\.\d+)?\0")
_RANK = {c.STT_FUNC: 0, c.STT_GNU_IFUNC: 0, c.STT_OBJECT: 0}


class SymbolTable:
    """The symbols of a file, from one or several of its sections."""

    def __init__(
        self, sections: list[SymbolSection], section_end: Callable[[int, int], int]
    ) -> None:
        """Look through `sections` in this order; `section_end` as for AddressIndex."""
        self._sections = sections
        self._section_end = section_end
        self._indices: dict[int, AddressIndex] = {}

    def __len__(self) -> int:
        return sum(section.columns.count for section in self._sections)

    def __iter__(self) -> Iterator[Symbol]:
        for section in self._sections:
            yield from section.select(repeat(True, section.columns.count))

    def __getitem__(self, index: int) -> Symbol:
        """Return the symbol in row `index`, as relocations count them; ElfError if outside."""
        if not self._sections:
            raise ElfError(f"no symbol {index}, for there is no symbol table")
        *before, last = self._sections
        for section in before:
            if 0 <= index < section.columns.count:
                return section[index]
            index -= section.columns.count
        return last[index]

    def by_name(self, name: str) -> list[Symbol]:
        """Return every symbol, defined or not, of exactly that name (given without version)."""
        found = [[s[row] for row in s.rows_named(name)] for s in self._sections]
        return _merge(found)

    def rows(self, name: str) -> list[int]:
        """Return the rows of the symbols of that name, as relocations count them."""
        found, first = [], 0
        for section in self._sections:
            found += [first + row for row in section.rows_named(name)]
            first += section.columns.count
        return found

    def at(self, vaddr: int) -> Symbol | None:
        """Return the function, object or label that covers `vaddr`; see hotpatch.elf.addresses."""
        for number, section in enumerate(self._sections):
            if number not in self._indices:
                self._indices[number] = AddressIndex(section.columns, self._section_end)
            rows = self._indices[number].covering(vaddr)
            if rows:
                return min((section[row] for row in rows), key=_preference)
        return None

    def functions(self) -> list[Symbol]:
        """Return all defined STT_FUNC symbols.

        Of those in .dynsym only what lies where .symtab has no function: to compare names too
        would take longer than all the rest.
        """
        found: list[Symbol] = []
        known: set[int] = set()
        for section in self._sections:
            mask, values = _functions(section.columns), section.columns.values
            fresh = set(compress(values, mask)) - known
            if known and fresh:
                mask = [m and value in fresh for m, value in zip(mask, values, strict=True)]
            if fresh:
                found += section.select(mask)
            known |= fresh
        return found

    def undefined(self) -> list[Symbol]:
        """Return the symbols that the file needs from others."""
        return _merge([s.select(_undefined(s.columns)) for s in self._sections])

    def decorated(self, name: str) -> list[Symbol]:
        """Return the local symbols that a compiler made of the static `name` of the source.

        gcc calls a static variable of a function NAME.N, clang FUNCTION.NAME; a static in a program
        optimised as a whole may be NAME.lto_priv.N.
        """
        plain = encode(name)
        found = []
        for section in self._sections:
            rows = {
                *section.rows_beginning(plain + b".", _NUMBER),
                *section.rows_ending(b"." + plain, _WITHIN),
            }
            found.append([section[row] for row in sorted(rows)])
        return [symbol for symbol in _merge(found) if symbol.bind == c.STB_LOCAL]

    def fragments(self, symbol: Symbol) -> list[Symbol]:
        """Return what the compiler split or cloned off the function `symbol`.

        That is NAME.cold, NAME.part.N, NAME.constprop.N, NAME.isra.N and their combinations.
        They are local to the file that made them: those of another file's `static` of the same
        name are left out.
        """
        found = [_fragments(section, symbol) for section in self._sections]
        return _merge(found)


def _fragments(section: SymbolSection, symbol: Symbol) -> list[Symbol]:
    columns = section.columns
    groups = _own_groups(section, symbol)
    rows = section.rows_beginning(encode(symbol.name) + b".", _FRAGMENT)
    return [
        s
        for row in rows
        if groups(columns.file_group(row)) and (s := section[row]).section != c.SHN_UNDEF
    ]


def _own_groups(section: SymbolSection, symbol: Symbol) -> Callable[[int], bool]:
    """Tell the file groups whose fragments may be of `symbol`, by the `static`s of that name."""
    statics: dict[int, set[int]] = {}
    for row in section.rows_named(symbol.name):
        if (static := section[row]).bind == c.STB_LOCAL:
            statics.setdefault(section.columns.file_group(row), set()).add(static.value)
    if symbol.bind == c.STB_LOCAL:
        return lambda group: symbol.value in statics.get(group, ())
    return lambda group: group not in statics


def _functions(columns: Columns) -> list[object]:
    rows = zip(columns.types, columns.sections, strict=True)
    return [type_ == c.STT_FUNC and section for type_, section in rows]


def _undefined(columns: Columns) -> list[object]:
    # Row 0 is the null symbol.
    return [row and not section for row, section in enumerate(columns.sections)]


def _preference(symbol: Symbol) -> tuple[int, bool, bool, int]:
    underscores = len(symbol.name) - len(symbol.name.lstrip("_"))
    superseded = symbol.version is not None and not symbol.default_version
    return _RANK.get(symbol.type, 1), symbol.bind == c.STB_LOCAL, superseded, underscores


def _merge(found: list[list[Symbol]]) -> list[Symbol]:
    """Join the answers of several tables; a symbol in more than one is kept once."""
    merged, *others = [symbols for symbols in found if symbols] or [[]]
    for more in others:
        merged = _join(merged, more)
    return merged


def _join(symbols: list[Symbol], more: list[Symbol]) -> list[Symbol]:
    """Add those of `more` that are not in `symbols`; take over versions that only `more` knows."""
    if not symbols:
        return more
    places = {(s[0], s[1], s[6] == c.SHN_UNDEF): i for i, s in enumerate(symbols)}
    joined, known = list(symbols), None
    for symbol in more:
        place = places.get((symbol[0], symbol[1], symbol[6] == c.SHN_UNDEF))
        if place is None:
            joined.append(symbol)
            continue
        twin = joined[place]
        if symbol[8] == twin[8] or symbol[8] is None:
            continue
        if twin[8] is None:
            joined[place] = twin._replace(version=symbol[8], default_version=symbol[9])
            continue
        known = known or {(s[0], s[1], s[8]) for s in symbols}
        if (symbol[0], symbol[1], symbol[8]) not in known:
            joined.append(symbol)
    return joined

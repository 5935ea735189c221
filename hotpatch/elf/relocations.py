# SPDX-License-Identifier: GPL-2.0-or-later
"""Relocations that are applied when the file is loaded: DT_RELA, DT_JMPREL and DT_RELR.

The psABI allows only relocations with addends on x86-64. DT_RELR (gABI, "Relative relocations")
is a list of addresses and bitmaps; what it relocates carries its addend in place. A static
program has no dynamic section: its start-up code applies the SHF_ALLOC relocation sections.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, repeat
from struct import Struct
from typing import NamedTuple

from hotpatch.arch.relocations import R_X86_64_RELATIVE
from hotpatch.elf import constants as c
from hotpatch.elf.bulk import column, rows
from hotpatch.elf.content import Content
from hotpatch.elf.dynamic import Dynamic
from hotpatch.elf.header import Section

_RELA_SIZE = 24
_RELR = Struct("<Q")
_ENTRY_SIZES = ((c.DT_RELAENT, _RELA_SIZE), (c.DT_RELRENT, _RELR.size))


class Relocation(NamedTuple):
    """Elf64_Rela with its info taken apart; `offset` is the virtual address that is written.

    `addend` None (of DT_RELR) means that the word at `offset` holds it.
    """

    offset: int
    type: int
    symbol_index: int
    addend: int | None


def dynamic_relocations(dynamic: Dynamic) -> list[Relocation]:
    """Return all relocations that the dynamic section lists, RELR first as the loader does."""
    if dynamic.value(c.DT_REL) or dynamic.value(c.DT_PLTREL, c.DT_RELA) != c.DT_RELA:
        raise dynamic.image.content.error("relocations without addends, which x86-64 has not")
    for tag, size in _ENTRY_SIZES:
        if dynamic.value(tag, size) != size:
            what = f"relocation entries of {dynamic.value(tag)} bytes, not {size}"
            raise dynamic.image.content.error(what)
    found = _relr(dynamic)
    for start, size in _tables(dynamic):
        offset = dynamic.image.offset(start, size, "relocation table")
        found += read_rela(dynamic.image.content, offset, size)
    return found


def static_relocations(content: Content, sections: tuple[Section, ...]) -> list[Relocation]:
    """Return those that the start-up code of a program without dynamic section applies."""
    found = []
    for section in sections:
        if section.type == c.SHT_RELA and section.flags & c.SHF_ALLOC:
            found += read_rela(content, section.offset, section.size)
    return found


def read_rela(content: Content, offset: int, size: int) -> list[Relocation]:
    """Return the Elf64_Rela entries in `size` bytes at file `offset`."""
    if size % _RELA_SIZE:
        raise content.error(f"relocation table of {size} bytes ends within an entry", offset)
    raw = content.take(offset, size, "relocation table")
    offsets, addends = column(raw, "Q", 3), column(raw, "q", 3, 2)
    types, symbols = column(raw, "I", 6, 2), column(raw, "I", 6, 3)
    return rows(Relocation, zip(offsets, types, symbols, addends, strict=True))


def _tables(dynamic: Dynamic) -> list[tuple[int, int]]:
    rela = dynamic.value(c.DT_RELA), dynamic.value(c.DT_RELASZ)
    plt = dynamic.value(c.DT_JMPREL), dynamic.value(c.DT_PLTRELSZ)
    # Some linkers count the PLT's relocations in DT_RELA too.
    inside = rela[0] <= plt[0] and plt[0] + plt[1] <= rela[0] + rela[1]
    return [table for table in (rela, () if inside else plt) if table and table[1]]


def _relr(dynamic: Dynamic) -> list[Relocation]:
    size = dynamic.value(c.DT_RELRSZ)
    if not size:
        return []
    content = dynamic.image.content
    if size % _RELR.size:
        raise content.error(f"DT_RELR of {size} bytes ends within an entry")
    offset = dynamic.offset(c.DT_RELR, size, "DT_RELR")
    # Each relocates a word of the file, so there can't be more than it has words.
    most = len(content) // 8
    places = list(islice(_relr_offsets(content.take(offset, size, "DT_RELR")), most + 1))
    if len(places) > most:
        raise content.error("DT_RELR relocates more words than the file has", offset)
    return rows(Relocation, zip(places, repeat(R_X86_64_RELATIVE), repeat(0), repeat(None)))


def _relr_offsets(table: bytes) -> Iterator[int]:
    """Even entries are addresses; odd ones tell by bit which of the next 63 words follow."""
    where = 0
    for (entry,) in _RELR.iter_unpack(table):
        if not entry & 1:
            yield entry
            where = entry + 8
            continue
        bits, at = entry >> 1, where
        while bits:
            if bits & 1:
                yield at
            bits >>= 1
            at += 8
        where += 63 * 8

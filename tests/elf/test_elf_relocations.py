# SPDX-License-Identifier: GPL-2.0-or-later
"""Relocations, and the functions of initialisation that they tell."""

from __future__ import annotations

import struct

import elf_builder
import elf_samples
import pytest
from elf_builder import Part
from hypothesis import given
from hypothesis import strategies as st

from hotpatch.arch.relocations import R_X86_64_64, R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE
from hotpatch.elf import constants as c
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.elf.relocations import Relocation

FIRST = elf_builder.FIRST
RELATIVE = struct.pack("<QQq", 0x40, R_X86_64_RELATIVE, -8)
SLOT = struct.pack("<QQq", 0x48, 1 << 32 | R_X86_64_JUMP_SLOT, 0)


def loaded(data: bytes, *entries: tuple[int, int]) -> ElfFile:
    """A file without section headers that has `data` at FIRST and a dynamic section."""
    parts = [Part("data", c.SHT_PROGBITS, data), elf_builder.dynamic(entries)]
    return ElfFile.from_bytes(elf_builder.build(parts, sections=False))


def test_tables_are_read_in_the_order_of_the_loader() -> None:
    relr = struct.pack("<Q", 0x50)
    elf = loaded(
        SLOT + RELATIVE + relr,
        (c.DT_JMPREL, FIRST), (c.DT_PLTRELSZ, 24), (c.DT_PLTREL, c.DT_RELA),
        (c.DT_RELA, FIRST + 24), (c.DT_RELASZ, 24),
        (c.DT_RELR, FIRST + 48), (c.DT_RELRSZ, 8),
    )  # fmt: skip
    assert elf.relocations == [
        Relocation(0x50, R_X86_64_RELATIVE, 0, None),
        Relocation(0x40, R_X86_64_RELATIVE, 0, -8),
        Relocation(0x48, R_X86_64_JUMP_SLOT, 1, 0),
    ]


def test_table_of_the_plt_inside_the_other_is_read_once() -> None:
    elf = loaded(
        RELATIVE + SLOT,
        (c.DT_RELA, FIRST), (c.DT_RELASZ, 48),
        (c.DT_JMPREL, FIRST + 24), (c.DT_PLTRELSZ, 24), (c.DT_PLTREL, c.DT_RELA),
    )  # fmt: skip
    assert [r.offset for r in elf.relocations] == [0x40, 0x48]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(c.DT_REL, FIRST)], "relocations without addends"),
        ([(c.DT_JMPREL, FIRST), (c.DT_PLTREL, c.DT_REL)], "relocations without addends"),
        ([(c.DT_RELA, FIRST), (c.DT_RELASZ, 25)], "table of 25 bytes ends within an entry"),
        ([(c.DT_RELR, FIRST), (c.DT_RELRSZ, 7)], "DT_RELR of 7 bytes ends within an entry"),
        ([(c.DT_RELA, FIRST), (c.DT_RELASZ, 24 << 40)], "is not in the file"),
        ([(c.DT_RELA, 1 << 50), (c.DT_RELASZ, 24)], "is not in the file"),
        ([(c.DT_RELA, FIRST), (c.DT_RELASZ, 24), (c.DT_RELAENT, 16)], "entries of 16 bytes"),
    ],
)
def test_damaged_tables_are_said(entries: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ElfError, match=message):
        _ = loaded(RELATIVE, *entries).relocations


def test_relocation_of_a_symbol_that_is_not_there_is_damage() -> None:
    raw, strings = elf_builder.symbols([elf_builder.Sym("a")])
    hashes = struct.pack("<IIIII", 1, 2, 1, 0, 0)
    data = SLOT.replace(b"\1\0\0\0", b"\2\0\0\0", 1) + raw + hashes + strings
    entries = [
        (c.DT_JMPREL, FIRST), (c.DT_PLTRELSZ, 24), (c.DT_PLTREL, c.DT_RELA),
        (c.DT_SYMTAB, FIRST + 24), (c.DT_HASH, FIRST + 72),
        (c.DT_STRTAB, FIRST + 92), (c.DT_STRSZ, len(strings)),
    ]  # fmt: skip
    elf = loaded(data, *entries)
    with pytest.raises(ElfError, match="symbol 2 of a table of 2"):
        _ = elf.dynamic_symbols[elf.relocations[0].symbol_index]
    unhashed = loaded(data, *(e for e in entries if e[0] != c.DT_HASH))
    assert len(unhashed.dynamic_symbols) == 3  # nothing tells how many there are but their use


def encode_relr(offsets: list[int]) -> bytes:
    """Encode ascending, even `offsets` as the gABI says: an address, then bitmaps of 63 words."""
    words: list[int] = []
    index = 0
    while index < len(offsets):
        words.append(offsets[index])
        base, index = offsets[index] + 8, index + 1
        while True:
            bitmap = 0
            while index < len(offsets) and offsets[index] < base + 63 * 8:
                if (offsets[index] - base) % 8:
                    break
                bitmap |= 2 << (offsets[index] - base) // 8
                index += 1
            if not bitmap:
                break
            words.append(bitmap | 1)
            base += 63 * 8
    return struct.pack(f"<{len(words)}Q", *words)


@given(st.sets(st.integers(0, 400), max_size=200), st.sampled_from([0, 2, 4]))
def test_packed_relocations_unpack_to_what_was_packed(words: set[int], shift: int) -> None:
    offsets = [8 * word + shift for word in sorted(words)]
    table = encode_relr(offsets)
    elf = loaded(table, (c.DT_RELR, FIRST), (c.DT_RELRSZ, len(table)))
    assert [r.offset for r in elf.relocations] == offsets


def test_packed_relocations_of_more_words_than_the_file_has_are_damage() -> None:
    table = struct.pack("<Q", 8) + b"\xff" * 8 * 1000
    with pytest.raises(ElfError, match="relocates more words than the file has"):
        _ = loaded(table, (c.DT_RELR, FIRST), (c.DT_RELRSZ, len(table))).relocations


def test_static_program_has_the_relocations_of_its_start_up_code(sample_directory: str) -> None:
    elf = ElfFile.open(elf_samples.sample(sample_directory, "static"))
    section = elf.section(".rela.plt")
    assert section is not None
    assert not elf.dynamic
    assert len(elf.relocations) == section.size // 24 > 0


# Functions of initialisation


@pytest.mark.parametrize("name", ["pie", "no-pie", "static-pie", "relr", "now"])
def test_functions_of_initialisation_are_the_constructors(name: str, sample_directory: str) -> None:
    elf = ElfFile.open(elf_samples.sample(sample_directory, name))
    first, *rest = [getattr(elf.symbols.at(a), "name", None) for a in elf.init_functions]
    assert (first, rest[-2:]) == ("_init", ["first", "second"])
    *rest, last = [getattr(elf.symbols.at(a), "name", None) for a in elf.fini_functions]
    assert (rest[0], last) == ("last", "_fini")


@pytest.mark.parametrize("flags", [(), ("-Wl,-z,pack-relative-relocs",)], ids=["rela", "relr"])
def test_functions_of_initialisation_of_a_library(
    flags: tuple[str, ...], sample_directory: str
) -> None:
    elf = ElfFile.open(elf_samples.library(sample_directory, f"init{len(flags)}", *flags))
    functions = {s.name: s.value for s in elf.symbols.functions()}
    assert elf.init_functions == (functions["_init"], functions["begin"])
    assert elf.fini_functions == (functions["end"], functions["_fini"])


def test_constructor_that_is_exported_is_found_through_its_symbol(sample_directory: str) -> None:
    source = "__attribute__((constructor)) void set_up(void) {}"
    path = elf_samples.compile_c(
        sample_directory, "exported", source, "-shared", "-fPIC", "-nostdlib"
    )
    elf = ElfFile.open(path)
    assert [r.type for r in elf.relocations] == [R_X86_64_64]
    assert elf.init_functions == (elf.symbols.by_name("set_up")[0].value,)


def test_empty_slots_are_no_functions() -> None:
    slots = struct.pack("<4Q", (1 << 64) - 1, 0x123, 0, 0x456)
    elf = loaded(slots, (c.DT_INIT_ARRAY, FIRST), (c.DT_INIT_ARRAYSZ, 32), (c.DT_INIT, 0))
    assert elf.init_functions == (0x123, 0x456)
    assert elf.fini_functions == ()


def test_constructor_in_another_file_is_said() -> None:
    raw, strings = elf_builder.symbols([elf_builder.Sym("other", section=c.SHN_UNDEF)])
    rela = struct.pack("<QQq", FIRST, 1 << 32 | R_X86_64_64, 0)
    elf = loaded(
        bytes(8) + rela + raw + strings,
        (c.DT_INIT_ARRAY, FIRST), (c.DT_INIT_ARRAYSZ, 8), (c.DT_RELA, FIRST + 8),
        (c.DT_RELASZ, 24), (c.DT_SYMTAB, FIRST + 32), (c.DT_STRTAB, FIRST + 80),
        (c.DT_STRSZ, len(strings)),
    )  # fmt: skip
    with pytest.raises(ElfError, match="the function called from 0x1000 is not in this file"):
        _ = elf.init_functions

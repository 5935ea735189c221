# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols by name and by address."""

from __future__ import annotations

import gc
import random
import struct

import elf_builder
import elf_samples
import pytest
from elf_builder import Part, Sym

from hotpatch.elf import constants as c
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.elf.symbols import Symbol

BASE = elf_builder.FIRST  # address of .text in files made by elf_builder.symtab
FILE = {"type": c.STT_FILE, "bind": c.STB_LOCAL, "section": c.SHN_ABS}


def table(*rows: Sym, strings: bytes | None = None) -> ElfFile:
    return ElfFile.from_bytes(elf_builder.symtab(rows, table=strings))


def names(symbols: list[Symbol]) -> list[str]:
    return [symbol.name for symbol in symbols]


# By name


def test_by_name_gives_what_a_walk_over_all_symbols_gives(elf: ElfFile) -> None:
    everything = list(elf.symbols)
    chosen = sorted({s.name for s in everything if s.name and s.type != c.STT_FILE})
    for name in random.Random(1).sample(chosen, min(60, len(chosen))):
        wanted = {s[:3] for s in everything if s.name == name}
        found = elf.symbols.by_name(name)
        assert {s[:3] for s in found} == wanted
        assert len(set(found)) == len(found)


def test_name_that_is_the_tail_of_another_is_found() -> None:
    elf = table(Sym(1, 0x10), Sym(3, 0x20), Sym(2, 0x30), strings=b"\0fopen\0")
    assert [names([s for s in elf.symbols if s.value == v]) for v in (0x10, 0x20, 0x30)] == [
        ["fopen"],
        ["pen"],
        ["open"],
    ]
    assert [s.value for s in elf.symbols.by_name("open")] == [0x30]
    assert [s.value for s in elf.symbols.by_name("pen")] == [0x20]
    assert elf.symbols.by_name("en") == []


def test_short_name_that_ends_many_others_is_found() -> None:
    elf = table(*(Sym(f"name_{n}_f", n) for n in range(100)), Sym("f", 500), Sym("f", 600))
    assert [s.value for s in elf.symbols.by_name("f")] == [500, 600]


@pytest.mark.parametrize("name", ["", "work\0", "\0", "wor", "ork", "work@", "é", "\udcff"])
def test_name_that_does_not_occur_is_not_found(name: str) -> None:
    assert table(Sym("work", 1)).symbols.by_name(name) == []


@pytest.mark.parametrize("name", ["größe", "not\udcff\udc80utf8", "a b", "f@@", "operator new[]"])
def test_any_name_is_found_as_it_is_shown(name: str) -> None:
    elf = table(Sym(name, 7, bind=c.STB_LOCAL), Sym("other"))
    assert names(list(elf.symbols)) == ["", name, "other"]
    assert elf.symbols[1].name == name
    assert [s.value for s in elf.symbols.by_name(name)] == [7]


def test_bytes_of_two_rows_are_not_taken_for_one_of_another() -> None:
    # As little-endian words, 0x100 and 0x10000 side by side hold the bytes of the word 1.
    strings = b"\0f.cold\0f\0" + bytes(0x10000)
    symbols = table(Sym(8, 1), Sym(0x100, 2), Sym(0x10000, 3), Sym(1, 4), strings=strings).symbols
    (function,) = symbols.by_name("f")
    assert [s.value for s in symbols.fragments(function)] == [4]


# Versions


@pytest.mark.parametrize("name", ["library", "library-gold"])
def test_versions_of_a_library(name: str, sample_directory: str) -> None:
    elf = ElfFile.open(elf_samples.sample(sample_directory, name))
    for symbols in (elf.symbols, elf.dynamic_symbols):
        found = sorted((s.version, s.default_version) for s in symbols.by_name("answer"))
        assert found == [("V1", False), ("V2", True)]
        (plain,) = symbols.by_name("plain")
        assert (plain.version, plain.default_version) == ("V1", True)
        (elsewhere,) = symbols.by_name("elsewhere")
        assert elsewhere.section == c.SHN_UNDEF
        assert not elsewhere.default_version


@pytest.mark.parametrize(
    ("name", "section", "expected"),
    [
        ("read@@GLIBC_2", 1, ("read", "GLIBC_2", True)),
        ("read@GLIBC_2", 1, ("read", "GLIBC_2", False)),
        ("read@GLIBC_2", 0, ("read", "GLIBC_2", False)),
        ("read@@GLIBC_2", 0, ("read", "GLIBC_2", False)),
        ("read", 0, ("read", None, False)),
        ("read", 1, ("read", None, True)),
        ("@read", 1, ("@read", None, True)),
    ],
)
def test_versions_that_the_linker_wrote_into_names(
    name: str, section: int, expected: tuple[str, str | None, bool]
) -> None:
    symbols = table(Sym(name, section=section)).symbols
    shown = [(s.name, s.version, s.default_version) for s in (symbols[1], list(symbols)[1])]
    assert shown == [expected, expected]
    assert symbols.by_name(expected[0]) == [symbols[1]]


def test_undefined_symbols_are_what_is_needed_from_others(sample_directory: str) -> None:
    elf = ElfFile.open(elf_samples.sample(sample_directory, "pie"))
    needed = {(s.name, s.version) for s in elf.symbols.undefined()}
    assert ("strlen", "GLIBC_2.2.5") in needed
    assert ("not_there", None) in needed
    assert len(needed) == len(elf.symbols.undefined())
    assert {s.section for s in elf.symbols.undefined()} == {c.SHN_UNDEF}


# By address


def test_at_gives_the_smallest_symbol_that_covers(elf: ElfFile) -> None:
    kinds = (c.STT_NOTYPE, c.STT_OBJECT, c.STT_FUNC, c.STT_GNU_IFUNC)
    apart = (c.SHN_UNDEF, c.SHN_ABS, c.SHN_COMMON)
    sized = [s for s in elf.symbols if s.size and s.type in kinds and s.section not in apart]
    for symbol in random.Random(2).sample(sized, min(50, len(sized))):
        for address in (symbol.value, symbol.value + symbol.size - 1):
            least = min(s.size for s in sized if s.value <= address < s.value + s.size)
            found = elf.symbols.at(address)
            assert found is not None
            assert found.value <= address < found.value + found.size
            assert found.size == least


def test_inner_symbol_goes_before_the_outer_and_ends_before_it() -> None:
    outer, inner = Sym("outer", BASE, 0x100), Sym("inner", BASE + 0x20, 0x10)
    symbols = table(outer, Sym("next", BASE + 0x200, 4), inner).symbols
    at = {a: s.name for a in range(0, 0x210, 0x10) if (s := symbols.at(BASE + a))}
    assert at == {a: "inner" if a == 0x20 else "outer" for a in range(0, 0x100, 0x10)} | {
        0x200: "next"
    }


@pytest.mark.parametrize(
    "better",
    [
        Sym("function", BASE, 8),
        Sym("smaller_label", BASE, 4, type=c.STT_NOTYPE),
    ],
)
def test_among_aliases_the_one_that_says_most_is_chosen(better: Sym) -> None:
    others = [
        Sym("__function", BASE, 8),
        Sym("local", BASE, 8, bind=c.STB_LOCAL),
        Sym("label", BASE, 8, type=c.STT_NOTYPE),
        Sym("superseded@VERSION_1", BASE, 8),
        Sym("empty", BASE, 0),
    ]
    for rows in ([better, *others], [*others, better]):
        found = table(*rows).symbols.at(BASE + 3)
        assert found is not None
        assert found.name == better.name


def test_label_without_size_reaches_to_the_next_symbol_or_the_end_of_its_section() -> None:
    label = {"size": 0, "type": c.STT_NOTYPE, "bind": c.STB_LOCAL}
    last = BASE + 0x800
    symbols = table(Sym("a", BASE + 0x10, **label), Sym("f", BASE + 0x20, 8),
                    Sym("z", last, **label)).symbols  # fmt: skip
    found = [symbols.at(BASE + offset) for offset in (0xF, 0x10, 0x1F, 0x20, 0x28, 0x7FF)]
    assert [s and s.name for s in found] == [None, "a", "a", "f", None, None]
    assert [s and s.name for s in map(symbols.at, (last, BASE + 0xFFF, BASE + 0x1000))] == [
        "z",
        "z",
        None,
    ]


def test_what_has_no_address_covers_none() -> None:
    absolute = Sym("absolute", BASE, 8, section=c.SHN_ABS)
    thread_local = Sym("thread_local", BASE, 8, type=c.STT_TLS)
    undefined = Sym("undefined", BASE, 8, section=c.SHN_UNDEF)
    assert table(absolute, thread_local, undefined).symbols.at(BASE) is None
    assert table().symbols.at(BASE) is None


# Functions and their fragments


def test_functions_are_all_that_are_defined(elf: ElfFile) -> None:
    wanted = [s for s in elf.symbols if s.type == c.STT_FUNC and s.section != c.SHN_UNDEF]
    found = elf.symbols.functions()
    assert set(found) <= set(wanted)
    assert {s.value for s in found} == {s.value for s in wanted}
    assert len(set(found)) == len(found)


LOCAL = {"bind": c.STB_LOCAL}
FRAGMENTS = [
    Sym("a.c", **FILE),
    Sym("parse", 0x10, **LOCAL),
    Sym("parse.cold", 0x20, **LOCAL),
    Sym("parse.part.0", 0x30, **LOCAL),
    Sym("parse.part.0.cold", 0x40, **LOCAL),
    Sym("run.cold", 0x45, **LOCAL),
    Sym("b.c", **FILE),
    Sym("parse", 0x50, **LOCAL),
    Sym("parse.cold", 0x60, **LOCAL),
    Sym("parse.constprop.0.isra.0", 0x70, **LOCAL),
    Sym("b.c", **FILE),
    Sym("parse", 0x80, **LOCAL),
    Sym("parse.cold", 0x90, **LOCAL),
    Sym("run", 0xA0, **LOCAL),
    Sym("run.cold", 0xA5, **LOCAL),
    Sym("reparse.cold", 0xB0, **LOCAL),
    Sym("parse.colder", 0xC0, **LOCAL),
    Sym("parse.llvm.123", 0xD0, **LOCAL),
    Sym("parse.0", 0xE0, **LOCAL),
    Sym("parse.lto_priv.0", 0xF0, **LOCAL),
    Sym("run", 0x100),
    Sym("lonely", 0x110),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0x10, [0x20, 0x30, 0x40]),
        (0x50, [0x60, 0x70]),
        (0x80, [0x90]),
        (0x30, [0x40]),
        (0xA0, [0xA5]),
        (0x100, [0x45]),
        (0x110, []),
    ],
)
def test_fragments_are_those_of_the_same_static_function(value: int, expected: list[int]) -> None:
    symbols = table(*FRAGMENTS).symbols
    (symbol,) = [s for s in symbols if s.value == value]
    assert [s.value for s in symbols.fragments(symbol)] == expected


def test_statics_that_no_file_tells_apart_share_their_fragments() -> None:
    rows = [Sym("parse", 1, **LOCAL), Sym("parse", 2, **LOCAL), Sym("parse.cold", 3, **LOCAL)]
    symbols = table(*rows).symbols
    for parse in symbols.by_name("parse"):
        assert [s.value for s in symbols.fragments(parse)] == [3]


def test_decorated_are_the_statics_of_functions_and_of_whole_program_optimisation() -> None:
    local = {"bind": c.STB_LOCAL, "type": c.STT_OBJECT}
    rows = [Sym("run.parse", 0x200, **local), Sym("run.parse.1", 0x210, **local)]
    others = [Sym("run.reparse", 0x220, **local), Sym("parse.3.x", 0x230, **local)]
    elf = table(*FRAGMENTS, *rows, *others, Sym("parse.7", 0x240))
    assert names(elf.symbols.decorated("parse")) == [
        "parse.0",
        "parse.lto_priv.0",
        "run.parse",
        "run.parse.1",
    ]
    assert elf.symbols.decorated("nothing") == []


def test_fragments_that_gcc_makes(sample_directory: str) -> None:
    source = """
    #include <stdlib.h>
    void note(int) __attribute__((cold));
    __attribute__((noinline)) static int scaled(int x, int by) {
        for (int i = 0; i < x; i++) { if (i * by == 77) { note(i); abort(); } x += by; }
        return x;
    }
    int entry(int x) { if (x == 3) { note(x); note(x + 1); abort(); } return scaled(x, 7); }
    """
    path = elf_samples.compile_c(sample_directory, "fragments", source, "-c", "-O2")
    symbols = ElfFile.open(path).symbols
    (entry,) = symbols.by_name("entry")
    assert names(symbols.fragments(entry)) == ["entry.cold"]
    clones = [s for s in symbols.functions() if s.name.startswith("scaled.constprop")]
    assert clones
    assert symbols.fragments(clones[0]._replace(name="scaled")) == []  # no such static is left
    assert clones[0].file == "fragments.c"


# Rows


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        assert names(table(Sym("a")).symbols.functions()) == ["a"]
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_section_index_that_overflows_is_looked_up() -> None:
    rows = [Sym("far", 1, section=c.SHN_XINDEX), Sym("near", 2, section=1)]
    more = struct.pack("<3I", 0, 70_000, 5)
    extended = Part(".symtab_shndx", c.SHT_SYMTAB_SHNDX, more, 0, link=2)
    symbols = ElfFile.from_bytes(elf_builder.symtab(rows, extended)).symbols
    assert [s.section for s in symbols] == [0, 70_000, 1]
    assert [symbols[index].section for index in range(3)] == [0, 70_000, 1]


@pytest.mark.parametrize("index", [3, -1, 1 << 40])
def test_row_outside_the_table_is_an_elf_error(index: int) -> None:
    with pytest.raises(ElfError, match=f"symbol {index} of a table of 3"):
        table(Sym("a"), Sym("b")).symbols[index]
    with pytest.raises(ElfError, match=f"no symbol {index}"):
        ElfFile.from_bytes(elf_builder.build([])).symbols[index]


def test_file_without_symbols_has_none() -> None:
    symbols = ElfFile.from_bytes(elf_builder.build([])).symbols
    assert (len(symbols), list(symbols), symbols.by_name("main"), symbols.at(0)) == (
        0,
        [],
        [],
        None,
    )
    assert (symbols.functions(), symbols.undefined()) == ([], [])


def test_symbols_of_both_tables_are_told_once() -> None:
    rows = [Sym("both", 0x10, 4), Sym("only_dynamic", 0x20, 4)]
    raw, strings = elf_builder.symbols(rows)
    parts = [
        Part(".text", c.SHT_PROGBITS, bytes(64)),
        Part(".dynsym", c.SHT_DYNSYM, raw, link=3),
        Part(".dynstr", c.SHT_STRTAB, strings),
        Part(".symtab", c.SHT_SYMTAB, elf_builder.symbols(rows[:1])[0], 0, link=3),
    ]
    _, symtab, strtab, _ = elf_builder.offsets_of(parts)
    entries = [(c.DT_SYMTAB, symtab), (c.DT_STRTAB, strtab), (c.DT_STRSZ, len(strings))]
    elf = ElfFile.from_bytes(elf_builder.build([*parts, elf_builder.dynamic(entries)]))
    assert (len(elf.symbols), len(elf.dynamic_symbols)) == (5, 3)
    assert names(elf.symbols.by_name("both")) == ["both"]
    assert names(elf.symbols.by_name("only_dynamic")) == ["only_dynamic"]
    assert names(elf.symbols.functions()) == ["both", "only_dynamic"]
    found = elf.symbols.at(0x22)
    assert found is not None
    assert found.name == "only_dynamic"

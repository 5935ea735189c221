# SPDX-License-Identifier: GPL-2.0-or-later
"""Any damage to a file is either not noticed or an ElfError, at once and without much memory."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import elf_builder
import elf_samples
import pytest
from elf_builder import Part, Sym
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpatch.elf import constants as c
from hotpatch.elf import strings as string_tables
from hotpatch.elf.debuglink import read_debuglink
from hotpatch.elf.file import ElfError, ElfFile

# No single file of these tests is larger than 32 KiB; what they make of it must stay in proportion.
MOST_MEMORY = 16 << 20
EXTREME = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF0)


def questions(elf: ElfFile) -> Iterator[Callable[[], Any]]:
    """Everything that can be asked of a file."""
    yield lambda: elf.sections
    yield lambda: [elf.section_data(section) for section in elf.sections]
    yield lambda: elf.debug_only
    yield lambda: elf.dynamic
    yield lambda: elf.needed
    yield lambda: elf.soname
    yield lambda: elf.notes
    yield lambda: elf.build_id
    yield lambda: elf.tls
    yield lambda: elf.relocations
    yield lambda: elf.init_functions
    yield lambda: elf.fini_functions
    yield lambda: read_debuglink(elf)
    for segment in elf.segments:
        yield lambda segment=segment: elf.read(segment.vaddr, segment.filesz)  # type: ignore[misc]
    for table in ("symbols", "dynamic_symbols"):
        yield lambda table=table: getattr(elf, table)  # type: ignore[misc]
        yield from symbol_questions(elf, table)


def symbol_questions(elf: ElfFile, table: str) -> Iterator[Callable[[], Any]]:
    def symbols() -> Any:
        return getattr(elf, table)

    yield lambda: list(symbols())
    yield lambda: [symbols()[index] for index in range(min(50, len(symbols())))]
    yield lambda: symbols().by_name("answer")
    yield lambda: symbols().decorated("at_start")
    yield lambda: symbols().at(elf.entry)
    yield lambda: symbols().functions()
    yield lambda: symbols().undefined()
    yield lambda: [symbols().fragments(symbol) for symbol in symbols().functions()[:5]]


def examine(data: bytes) -> int:
    """Ask everything; return how often the answer was an ElfError. Others are not caught."""
    try:
        elf = ElfFile.from_bytes(data)
    except ElfError:
        return 1
    errors = 0
    for question in questions(elf):
        try:
            question()
        except ElfError as error:
            errors += 1
            assert error.what
    return errors


@pytest.fixture(scope="module")
def small(sample_directory: str) -> bytes:
    """A library of a few KiB that has all there is: versions, TLS, RELR, notes, constructors."""
    flags = ("-Wl,-z,noseparate-code", "-Wl,-z,max-page-size=16", "-Wl,--build-id",
             "-Wl,-z,pack-relative-relocs", "-Wl,-z,norelro")  # fmt: skip
    with open(elf_samples.library(sample_directory, "small", *flags), "rb") as file:
        return file.read()


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_undamaged_files_answer_everything(small: bytes, sample_directory: str) -> None:
    assert examine(small) == 0
    for name in ("pie", "object", "stripped"):
        with open(elf_samples.sample(sample_directory, name), "rb") as file:
            assert examine(file.read()) == 0


def test_every_truncation(small: bytes) -> None:
    assert all(examine(small[:size]) for size in range(len(small)))


def test_words_made_extreme(small: bytes) -> None:
    with little_memory():
        for number, offset in enumerate(range(0, len(small) - 3, 12)):
            data = bytearray(small)
            struct.pack_into("<I", data, offset, EXTREME[number % len(EXTREME)])
            examine(bytes(data))


@pytest.mark.sweep
def test_every_word_made_each_extreme(small: bytes) -> None:
    for offset in range(0, len(small) - 7, 4):
        for low in EXTREME:
            for high in (0, 0xFFFFFFFF):
                data = bytearray(small)
                struct.pack_into("<II", data, offset, low, high)
                examine(bytes(data))


@pytest.mark.sweep
def test_every_bit_flipped(small: bytes) -> None:
    for bit in range(8 * len(small)):
        data = bytearray(small)
        data[bit // 8] ^= 1 << bit % 8
        examine(bytes(data))


@settings(max_examples=300, deadline=timedelta(seconds=20))
@given(data=st.data())
def test_random_damage(small: bytes, data: st.DataObject) -> None:
    damaged = bytearray(small)
    for _ in range(data.draw(st.integers(1, 12))):
        offset = data.draw(st.integers(0, len(small) - 8))
        kind, values = data.draw(st.sampled_from(KINDS))
        struct.pack_into(kind, damaged, offset, data.draw(values))
    examine(bytes(damaged[: data.draw(st.sampled_from((len(small), len(small) - 100)))]))


KINDS = (
    ("<B", st.integers(0, 255)),
    ("<I", st.one_of(st.integers(0, 0x4000), st.integers(0, 2**32 - 1))),
    ("<Q", st.one_of(st.integers(0, 0x4000), st.integers(0, 2**64 - 1))),
)


@settings(max_examples=200, deadline=timedelta(seconds=20))
@given(st.binary(max_size=400), st.integers(0, 600))
def test_random_bytes_behind_a_header(data: bytes, cut: int) -> None:
    whole = elf_builder.ehdr(c.ET_DYN, 2, 120, 3) + data
    examine(whole[: max(64, cut)])


# Files that would cost much, were they believed


def overlapping_names() -> bytes:
    # Each of 10,000 symbols has a name that is one byte shorter than the one before.
    rows = [Sym(n + 1, n) for n in range(10_000)]
    return elf_builder.symtab(rows, table=b"\0" + b"a" * 300_000 + b"\0")


def test_names_that_overlap_without_end_are_damage() -> None:
    elf = ElfFile.from_bytes(overlapping_names())
    with little_memory(), pytest.raises(ElfError, match="names overlap without end"):
        elf.symbols.functions()
    assert elf.symbols[1].name == "a" * 300_000


def test_long_names_are_searched_in_little_memory() -> None:
    table = b"\0" + (b"a" * 500_000 + b".x\0") * 2
    rows = [Sym(1, bind=c.STB_LOCAL), Sym(400_000, bind=c.STB_LOCAL), Sym(500_001)]
    symbols = ElfFile.from_bytes(elf_builder.symtab(rows, table=table)).symbols
    assert len(symbols.by_name(".x")) == 1
    with little_memory():
        assert len(symbols.decorated("x")) == 2


def test_name_without_end_is_damage() -> None:
    longest = string_tables.LONGEST_NAME
    table = b"\0" + b"a" * longest + b"\0unfinished"
    rows = [Sym(1), Sym(2), Sym(longest + 2), Sym(1 << 31)]
    symbols = ElfFile.from_bytes(elf_builder.symtab(rows, table=table)).symbols
    assert len(symbols[2].name) == longest - 1
    for row, message in ((1, "name without an end"), (3, "name without an end"),
                         (4, "name outside its table")):  # fmt: skip
        with pytest.raises(ElfError, match=message):
            _ = symbols[row]
    with pytest.raises(ElfError, match="name without an end"):
        list(symbols)


def versions(data: bytes, tag: int, count_tag: int) -> ElfFile:
    """A file of one symbol with version 2, whose versions are `data`, said to be very many."""
    raw, strings = elf_builder.symbols([Sym("a")])
    symbols = raw + struct.pack("<HH", 0, 2) + bytes(4) + strings
    first = elf_builder.FIRST
    at = first + len(symbols)
    entries = [
        (c.DT_SYMTAB, first), (c.DT_VERSYM, first + 48), (c.DT_STRTAB, first + 56),
        (c.DT_STRSZ, len(strings)), (c.DT_GNU_HASH, at + len(data)), (tag, at),
        (count_tag, 1 << 60),
    ]  # fmt: skip
    hashes = struct.pack("<IIIIQII", 1, 1, 1, 0, 0, 1, 1)
    part = Part("all", c.SHT_PROGBITS, symbols + data + hashes)
    return ElfFile.from_bytes(elf_builder.build([part, elf_builder.dynamic(entries)], False))


def test_version_needs_that_overlap_are_damage() -> None:
    # Each is behind the one before by one byte, and says that it has 65,535 versions.
    data = struct.pack("<HHIII", 1, 0xFFFF, 0, 16, 1) * 2000
    with pytest.raises(ElfError, match="more version needs than the file can hold"):
        _ = versions(data, c.DT_VERNEED, c.DT_VERNEEDNUM).dynamic_symbols


def test_version_definitions_end_where_no_other_follows() -> None:
    data = struct.pack("<HHHHIII", 1, 0, 2, 1, 0, 20, 0) + struct.pack("<II", 1, 0)
    (symbol,) = versions(data, c.DT_VERDEF, c.DT_VERDEFNUM).dynamic_symbols.by_name("a")
    assert (symbol.version, symbol.default_version) == ("a", True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((1, 1, 1, 0, 0, 0, 1, 2), "DT_GNU_HASH chain without an end"),
        ((1 << 31, 1, 1, 0, 0, 0, 1, 1), "DT_GNU_HASH buckets"),
        ((1, 1, 1 << 31, 0, 0, 0, 1, 1), "DT_GNU_HASH buckets"),
        ((1, 1, 1, 0, 0, 0, 1 << 31, 1), "DT_GNU_HASH chain"),
    ],
)
def test_damaged_hash_table_is_said(words: tuple[int, ...], message: str) -> None:
    data = elf_builder.build([elf_builder.dynamic([(c.DT_SYMTAB, 0), (c.DT_STRTAB, 0),
                                                   (c.DT_GNU_HASH, 0x1100)])], False)  # fmt: skip
    # At the very end of the file, so that the chain can't go on in what follows.
    hashes = struct.pack("<8I", *words)
    data = data[:0x1100] + bytes(0x1100 - len(data)) + hashes
    elf = ElfFile.from_bytes(data[:96] + struct.pack("<QQ", len(data), len(data)) + data[112:])
    with pytest.raises(ElfError, match=message):
        _ = elf.dynamic_symbols


def test_zeros_that_no_file_asks_for_are_not_made() -> None:
    data = bytearray(elf_builder.build([]))
    struct.pack_into("<Q", data, 64 + 40, 1 << 50)  # p_memsz
    elf = ElfFile.from_bytes(bytes(data))
    with pytest.raises(ElfError, match="too many zeros"):
        elf.read(0, 1 << 40)


def test_thousands_of_aliases_are_answered() -> None:
    rows = [Sym("alias", elf_builder.FIRST, 8) for _ in range(20_000)]
    symbols = ElfFile.from_bytes(elf_builder.symtab(rows)).symbols
    found = symbols.at(elf_builder.FIRST + 1)
    assert found is not None
    assert found.name == "alias"
    assert len(symbols.by_name("alias")) == 20_000

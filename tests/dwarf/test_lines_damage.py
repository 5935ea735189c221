# SPDX-License-Identifier: GPL-2.0-or-later
"""Any damage to debug information is not noticed, or a DwarfError; at once either way."""

from __future__ import annotations

import functools
import struct
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.lines import SourceLines
from hotpatch.elf.file import ElfFile
from tests.dwarf.test_dwarf_damage import bounded, changes
from tests.dwarf.test_lines import BUILDS, compile_to

KINDS = ("gcc -O2", "gcc sections DWARF 4", "gcc compressed", "clang -O2", "clang DWARF 4")


@functools.cache
def program(kind: str) -> tuple[bytes, range, dict[str, range]]:
    """A program; where its code is, and at which offsets the tables are."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(compile_to(Path(directory) / "program", BUILDS[kind]))
        content = path.read_bytes()
    elf = ElfFile.from_bytes(content)
    text = elf.section(".text")
    assert text is not None
    tables = {
        s.name: range(s.offset, s.offset + s.size)
        for s in elf.sections
        if s.size and s.name.startswith(".debug_")
    }
    return content, range(text.addr, text.addr + text.size, 37), tables


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile before any deadline runs."""
    for kind in KINDS:
        program(kind)


def ask_everything(elf: ElfFile, where: range) -> None:
    lines = SourceLines.of_file(elf)
    for pc in (0, *where, where.stop, 1 << 40):
        try:
            found = lines.at(pc)
        except DwarfError:
            continue
        assert all(p.inlined for p in found[:-1])


@settings(deadline=timedelta(seconds=10), max_examples=150)
@given(st.sampled_from(KINDS), changes)
def test_changed_bytes(kind: str, wanted: list[tuple[int, bytes]]) -> None:
    content, where, tables = program(kind)
    names = sorted(tables)
    damaged = bytearray(content)
    for number, data in wanted:
        table = tables[names[number % len(names)]]  # small ones are damaged as often as large ones
        at = table[number // len(names) % len(table)]
        damaged[at : at + len(data)] = data
    elf = ElfFile.from_bytes(bytes(damaged[: len(content)]))
    bounded(lambda: ask_everything(elf, where))


@settings(deadline=timedelta(seconds=10), max_examples=100)
@given(st.sampled_from(KINDS), st.integers(0, 1 << 20), st.integers(0, 7))
def test_a_changed_bit(kind: str, number: int, bit: int) -> None:
    content, where, tables = program(kind)
    names = sorted(tables)
    table = tables[names[number % len(names)]]
    damaged = bytearray(content)
    damaged[table[number // len(names) % len(table)]] ^= 1 << bit
    elf = ElfFile.from_bytes(bytes(damaged))
    bounded(lambda: ask_everything(elf, where))


@settings(deadline=timedelta(seconds=10), max_examples=100)
@given(st.sampled_from(KINDS), st.sampled_from(["offset", "size"]), st.integers(0, 1 << 16),
       st.integers(0, 15))  # fmt: skip
def test_a_section_that_is_elsewhere(kind: str, field: str, value: int, which: int) -> None:
    """As truncated: a section header that says something else than the linker did."""
    content, where, tables = program(kind)
    name = sorted(tables)[which % len(tables)]
    damaged = bytearray(content)
    elf = ElfFile.from_bytes(content)
    section = elf.section(name)
    assert section is not None
    (headers,) = struct.unpack_from("<Q", content, 40)  # e_shoff
    at = headers + 64 * section.index + (24 if field == "offset" else 32)
    struct.pack_into("<Q", damaged, at, value)
    bounded(lambda: ask_everything(ElfFile.from_bytes(bytes(damaged)), where))


@pytest.mark.parametrize("kind", KINDS)
def test_undamaged_tables_are_used_to_the_end(kind: str) -> None:
    content, where, tables = program(kind)
    lines = SourceLines.of_file(ElfFile.from_bytes(content))
    assert len({lines.at(pc) for pc in where}) > 10
    assert len(tables) >= 6

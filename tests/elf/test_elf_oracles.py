# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever readelf and pyelftools say about real files, hotpatch.elf says too."""

from __future__ import annotations

import elf_samples
import pytest
import readelf
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelrRelocationSection

from hotpatch.arch.relocations import R_X86_64_RELATIVE
from hotpatch.elf import constants as c
from hotpatch.elf.file import ElfFile
from hotpatch.elf.symbols import Symbol

ADDRESS_TAGS = (c.DT_INIT, c.DT_FINI, c.DT_SYMTAB, c.DT_RELA, c.DT_JMPREL, c.DT_INIT_ARRAY)


def as_rows(symbols: list[Symbol]) -> list[readelf.Row]:
    # readelf leaves the version away from the symbols that stand for the versions themselves.
    versions = [None if s.version == s.name else s.version for s in symbols]
    return [
        readelf.Row(*s[:7], version, s.default_version)
        for s, version in zip(symbols, versions, strict=True)
    ]


def unnamed_sections(rows: list[readelf.Row]) -> list[readelf.Row]:
    # readelf shows STT_SECTION symbols, which have no name, with that of their section.
    return [row._replace(name="") if row.type == c.STT_SECTION else row for row in rows]


def test_every_symbol_is_the_one_that_readelf_shows(elf: ElfFile, path: str) -> None:
    tables = readelf.symbols(path)
    expected = tables.get(".symtab", []) + tables.get(".dynsym", [])
    assert as_rows(list(elf.symbols)) == unnamed_sections(expected)
    assert len(elf.symbols) == len(expected) > 0


def test_dynamic_symbols_are_found_without_section_headers(linked_path: str) -> None:
    elf = ElfFile.from_bytes(elf_samples.without_sections(linked_path))
    expected = readelf.symbols(linked_path).get(".dynsym", [])
    # Nothing but section headers lists symbols that are neither defined nor used in a relocation.
    used = {0} | {r.symbol_index for r in elf.relocations}
    assert elf.sections == ()
    assert as_rows(list(elf.dynamic_symbols)) == expected[: len(elf.dynamic_symbols)]
    rest = range(len(elf.dynamic_symbols), len(expected))
    assert all(expected[i].section == c.SHN_UNDEF and i not in used for i in rest)


def test_one_symbol_by_index_is_the_one_of_the_whole_table(elf: ElfFile) -> None:
    table = elf.symbols
    assert [table[index] for index in range(len(table))] == list(table)


def test_source_files_of_locals_are_those_of_the_symbol_before(elf: ElfFile, path: str) -> None:
    expected, file = [], None
    for row in readelf.symbols(path).get(".symtab", []):
        if row.type == c.STT_FILE:
            file = row.name or None
        expected.append(file if row.bind == c.STB_LOCAL and row.type != c.STT_FILE else None)
    assert [s.file for s in elf.symbols][: len(expected)] == expected


def test_relocations_are_those_of_readelf(linked_path: str) -> None:
    elf = ElfFile.open(linked_path)
    ours = [r for r in elf.relocations if r.addend is not None]
    assert [(r.offset, r.symbol_index << 32 | r.type) for r in ours] == readelf.relocations(
        linked_path
    )
    packed = [r for r in elf.relocations if r.addend is None]
    assert [r.offset for r in packed] == readelf.relative(linked_path)
    assert {r.type for r in packed} <= {R_X86_64_RELATIVE}


def test_addends_are_those_of_pyelftools(linked_path: str) -> None:
    with open(linked_path, "rb") as file:
        expected = [
            (r["r_offset"], r["r_addend"])
            for section in ELFFile(file).iter_sections("SHT_RELA")
            for r in section.iter_relocations()
        ]
    elf = ElfFile.open(linked_path)
    assert [(r.offset, r.addend) for r in elf.relocations if r.addend is not None] == expected


def test_packed_relocations_are_those_of_pyelftools(sample_directory: str) -> None:
    path = elf_samples.sample(sample_directory, "relr")
    with open(path, "rb") as file:
        section = ELFFile(file).get_section_by_name(".relr.dyn")
        assert isinstance(section, RelrRelocationSection)
        expected = [r["r_offset"] for r in section.iter_relocations()]
    elf = ElfFile.open(path)
    assert [r.offset for r in elf.relocations if r.addend is None] == expected
    assert len(expected) > 5


def test_segments_are_those_of_readelf(elf: ElfFile, path: str) -> None:
    ours = [(s.offset, s.vaddr, s.filesz, s.memsz, s.align) for s in elf.segments]
    assert ours == readelf.segments(path)


def test_sections_are_those_of_pyelftools(elf: ElfFile, path: str) -> None:
    with open(path, "rb") as file:
        expected = [
            (s.name, s["sh_addr"], s["sh_offset"], s["sh_size"], s["sh_link"], s["sh_flags"])
            for s in ELFFile(file).iter_sections()
        ]
    assert [(s.name, s.addr, s.offset, s.size, s.link, s.flags) for s in elf.sections] == expected
    assert [s.index for s in elf.sections] == list(range(len(expected)))


def test_dynamic_entries_are_those_of_readelf(elf: ElfFile, path: str) -> None:
    entries = readelf.dynamic(path)
    ours = [tag for tag, values in elf.dynamic.items() for _ in values]
    assert sorted(ours) == sorted(tag for tag, _ in entries if tag != c.DT_NULL)
    for tag, text in entries:
        if tag in ADDRESS_TAGS:
            assert elf.dynamic[tag] == [int(text, 16)]


def test_names_in_the_dynamic_section_are_those_of_readelf(elf: ElfFile, path: str) -> None:
    texts = [text.partition("[")[2].rstrip("]") for text in readelf.run(path, "-d").splitlines()]
    lines = list(zip(readelf.run(path, "-d").splitlines(), texts, strict=True))
    assert list(elf.needed) == [text for line, text in lines if "(NEEDED)" in line]
    assert [elf.soname or ""] == ([text for line, text in lines if "(SONAME)" in line] or [""])


def test_notes_are_those_of_readelf(elf: ElfFile, path: str) -> None:
    assert [(note.name, len(note.desc)) for note in elf.notes] == readelf.notes(path)
    assert (elf.build_id.hex() if elf.build_id else None) == readelf.build_id(path)


def test_build_id_is_found_without_section_headers(linked_path: str) -> None:
    stripped = ElfFile.from_bytes(elf_samples.without_sections(linked_path))
    assert stripped.build_id == ElfFile.open(linked_path).build_id


@pytest.mark.parametrize("name", elf_samples.EVERY)
def test_only_programs_with_thread_local_storage_have_a_tls_segment(
    name: str, sample_directory: str
) -> None:
    path = elf_samples.sample(sample_directory, name)
    tls = ElfFile.open(path).tls
    with open(path, "rb") as file:
        expected = [s["p_memsz"] for s in ELFFile(file).iter_segments("PT_TLS")]
    assert ([tls.memsz] if tls else []) == expected


def test_content_of_sections_is_read_by_address_and_by_section(elf: ElfFile, path: str) -> None:
    with open(path, "rb") as file:
        sections = list(ELFFile(file).iter_sections())
        data = [b"" if s["sh_type"] == "SHT_NOBITS" else s.data() for s in sections]
    loaded = c.SHF_ALLOC if elf.type != c.ET_REL else 0
    for section, expected in zip(elf.sections, data, strict=True):
        if not section.flags & c.SHF_COMPRESSED:
            assert elf.section_data(section) == expected
        if section.flags & loaded and not section.flags & c.SHF_TLS:
            size = min(section.size, 1 << 20)
            assert elf.read(section.addr, size) == (expected or bytes(size))[:size]

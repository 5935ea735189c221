# SPDX-License-Identifier: GPL-2.0-or-later
"""What is accepted as a file, and what is said about the rest."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import elf_builder
import pytest
from elf_builder import Part

from hotpatch.elf import constants as c
from hotpatch.elf.file import ElfError, ElfFile

SMALL = elf_builder.build([Part(".data", c.SHT_PROGBITS, b"0123456789")])


def patched(offset: int, layout: str, *values: int) -> bytes:
    data = bytearray(SMALL)
    struct.pack_into(layout, data, offset, *values)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (b"", "not an ELF file", 0),
        (b"#!/bin/sh\nexit 1\n", "not an ELF file", 0),
        (c.ELFMAG, "identification of 16 bytes reaches beyond the file's 4", 0),
        (SMALL[:63], "ELF header of 64 bytes reaches beyond the file's 63", 0),
        (patched(4, "B", 1), "a 32-bit file", 4),
        (patched(4, "B", 9), "unknown class 9, not 64-bit", 4),
        (patched(5, "B", 2), "not little-endian", 5),
        (patched(6, "B", 0), "unknown ELF version 0", 6),
        (patched(18, "<H", 183), "for machine 183, not x86-64", 18),
        (patched(54, "<H", 32), "program headers of 32 bytes, not 56", 54),
        (patched(58, "<H", 40), "section headers of 40 bytes, not 64", 58),
        (patched(32, "<Q", 1 << 63), "program header table of 56 bytes reaches", 1 << 63),
        (patched(64 + 32, "<Q", 1 << 40), "program header 0: impossible size", 64),
        (patched(64 + 16, "<Q", (1 << 64) - 1), "program header 0: impossible size", 64),
    ],
)
def test_what_is_no_x86_64_elf_file_is_refused_with_the_place(
    data: bytes, message: str, offset: int
) -> None:
    with pytest.raises(ElfError, match=message) as caught:
        ElfFile.from_bytes(data, "some.so")
    assert caught.value.offset == offset
    assert str(caught.value).startswith("some.so: ")
    assert str(caught.value).endswith(f"(at file offset {offset:#x})")


def test_missing_file_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ElfFile.open(f"{tmp_path}/nothing")


def test_pipe_and_directory_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(f"{tmp_path}/pipe")
    for path in (f"{tmp_path}/pipe", f"{tmp_path}"):
        with pytest.raises(ElfError, match="not a regular file"):
            ElfFile.open(path)


@pytest.mark.parametrize("padding", [0, 2 << 20], ids=["copied", "mapped"])
def test_content_read_before_stays_after_close(tmp_path: Path, padding: int) -> None:
    path = f"{tmp_path}/file"
    with open(path, "wb") as file:
        file.write(SMALL + bytes(padding))
    elf = ElfFile.open(path)
    data, sections = elf.read(elf_builder.FIRST, 10), elf.sections
    elf.close()
    assert (data, sections[1].name, elf.name) == (b"0123456789", ".data", path)


def test_large_file_that_is_no_elf_file_is_unmapped(tmp_path: Path) -> None:
    path = f"{tmp_path}/file"
    with open(path, "wb") as file:
        file.write(bytes(2 << 20))
    with pytest.raises(ElfError, match="not an ELF file"):
        ElfFile.open(path)
    with open("/proc/self/maps") as maps:
        assert path not in maps.read()


def test_counts_that_overflow_the_header_are_in_section_0() -> None:
    data = bytearray(SMALL)
    (shoff,) = struct.unpack_from("<Q", data, 40)
    struct.pack_into("<H", data, 56, c.PN_XNUM)
    struct.pack_into("<HH", data, 60, 0, c.SHN_XINDEX)
    struct.pack_into("<QII", data, shoff + 32, 3, 2, 1)  # size, link, info
    elf = ElfFile.from_bytes(bytes(data))
    assert [s.name for s in elf.sections] == ["", ".data", ".shstrtab"]
    assert [s.type for s in elf.segments] == [c.PT_LOAD]


def test_content_is_zero_behind_what_the_file_stores() -> None:
    elf = ElfFile.from_bytes(SMALL)
    end = len(SMALL)
    assert elf.read(end - 2, 4) == SMALL[-2:] + bytes(2)
    assert elf.read(end + 0xFF0, 16) == bytes(16)
    for address, size in ((end + 0xFF0, 17), (-1, 1), (1 << 64, 1), (0, 1 << 70), (0, -1)):
        with pytest.raises(ElfError, match="lie in no segment"):
            elf.read(address, size)


def test_section_names_in_no_section_are_damage() -> None:
    with pytest.raises(ElfError, match="section names in section 77 of 3"):
        _ = ElfFile.from_bytes(patched(62, "<H", 77)).sections


def test_damaged_section_headers_hide_nothing_that_the_loader_uses() -> None:
    note = Part(".note", c.SHT_NOTE, struct.pack("<III4s4s", 4, 4, 3, b"GNU\0", b"\1\2\3\4"))
    data = bytearray(elf_builder.build([note, elf_builder.dynamic([(c.DT_FLAGS, 8)])]))
    struct.pack_into("<Q", data, 40, 1 << 40)
    elf = ElfFile.from_bytes(bytes(data))
    assert (elf.build_id, elf.dynamic) == (b"\1\2\3\4", {c.DT_FLAGS: [8]})
    with pytest.raises(ElfError, match="section header"):
        _ = elf.sections

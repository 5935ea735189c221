# SPDX-License-Identifier: GPL-2.0-or-later
"""Where call frame information can be: the same function has the same rows, wherever they are."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cfi import Row
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.file import CallFrames
from hotpatch.dwarf.search import Frames, read_header
from hotpatch.elf.constants import PT_GNU_EH_FRAME, SHF_COMPRESSED
from hotpatch.elf.file import ElfFile
from tests.dwarf import readelf_frames
from tests.dwarf.builder import SECTION, CieSpec, FdeSpec, build, number, section
from tests.support.programs import executable

SOURCE = """
int work(int *values, int count);
int outer(int a, int b, int c)
{
    int values[64];
    for (int i = 0; i < 64; i++)
        values[i] = a + i * b;
    return work(values, c) + work(values, b) * c;
}
int leaf(int a) { return a + 1; }
"""
DEBUG_ONLY = ("-g", "-fno-asynchronous-unwind-tables")


class Kind(NamedTuple):
    """Flags of the compiler, and what comes of them."""

    flags: tuple[str, ...] = ()
    header: bool = False
    debug_frame: bool = False
    compressed: bool = False


KINDS = {
    "eh_frame_hdr": Kind((), header=True),
    "no section headers": Kind((), header=True),
    "eh_frame": Kind(("-Wl,--no-eh-frame-hdr",)),
    "debug_frame": Kind(DEBUG_ONLY, debug_frame=True),
    "compressed": Kind((*DEBUG_ONLY, "-gz=zlib"), debug_frame=True, compressed=True),
    "debug_frame of DWARF 4": Kind((*DEBUG_ONLY, "-gdwarf-4"), debug_frame=True),
}


def kind_of(elf: ElfFile) -> Kind:
    """What a file is, but for the flags."""
    header = any(s.type == PT_GNU_EH_FRAME for s in elf.segments)
    section = elf.section(".debug_frame")
    compressed = section is not None and bool(section.flags & SHF_COMPRESSED)
    return Kind((), header, section is not None, compressed)


def compile_to(path: Path, *flags: str) -> str:
    source = path.with_suffix(".c")
    source.write_text(SOURCE)
    command = ["gcc", "-O2", "-shared", "-fPIC", *flags, "-o", os.fspath(path), os.fspath(source)]
    subprocess.run(command, check=True, capture_output=True)
    return os.fspath(path)


def without_section_headers(path: str) -> None:
    """Say in the ELF header that there are none (e_shoff, e_shnum, e_shstrndx)."""
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(bytes(8))
        file.seek(60)
        file.write(bytes(4))


def symbols(path: str) -> dict[str, range]:
    elf = ElfFile.open(path)
    found = [elf.symbols.by_name(name)[0] for name in ("outer", "leaf")]
    return {s.name: range(s.value, s.value + s.size) for s in found}


def rows(frames: CallFrames, where: range) -> list[tuple[object, ...]]:
    """The rows of a function at each of its bytes, as (start, cfa, rules)."""
    result: list[tuple[object, ...]] = []
    for pc in where:
        row = frames.row(pc)
        assert row is not None, hex(pc)
        result.append((row.start - where.start, row.cfa, row.rules))
    return result


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[object, ...]]]:
    path = compile_to(tmp_path_factory.mktemp("frames") / "reference.so")
    frames = CallFrames.of_file(ElfFile.open(path))
    return {name: rows(frames, where) for name, where in symbols(path).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_found(
    kind: str, tmp_path: Path, reference: dict[str, list[tuple[object, ...]]]
) -> None:
    path = compile_to(tmp_path / "library.so", *KINDS[kind].flags)
    places = symbols(path)
    if kind == "no section headers":
        without_section_headers(path)
    elf = ElfFile.open(path)
    assert kind_of(elf) == KINDS[kind]._replace(flags=()), "built as meant"
    frames = CallFrames.of_file(elf)
    assert {name: rows(frames, where) for name, where in places.items()} == reference


def test_rows_are_found_in_a_separate_debug_file(
    tmp_path: Path, reference: dict[str, list[tuple[object, ...]]]
) -> None:
    path = compile_to(tmp_path / "library.so", *DEBUG_ONLY)
    places, debug = symbols(path), path + ".debug"
    subprocess.run(["objcopy", "--only-keep-debug", path, debug], check=True)
    subprocess.run(["objcopy", "--strip-all", path], check=True)
    assert CallFrames.of_file(ElfFile.open(path)).row(places["leaf"].start) is None
    frames = CallFrames.of_file(ElfFile.open(path), lambda: ElfFile.open(debug))
    assert {name: rows(frames, where) for name, where in places.items()} == reference


def test_the_debug_file_is_asked_for_once_and_only_if_needed(tmp_path: Path) -> None:
    path = compile_to(tmp_path / "library.so")
    asked = []
    frames = CallFrames.of_file(ElfFile.open(path), lambda: asked.append(1))
    assert frames.row(symbols(path)["leaf"].start) is not None
    assert not asked
    assert frames.row(1) is None
    assert frames.row(2) is None
    assert len(asked) == 1


def test_rows_of_an_image_in_memory(
    tmp_path: Path, reference: dict[str, list[tuple[object, ...]]]
) -> None:
    path, base = compile_to(tmp_path / "library.so"), 0x7F0000000000
    elf = ElfFile.open(path)
    (segment,) = (s for s in elf.segments if s.type == PT_GNU_EH_FRAME)

    def read(address: int, size: int) -> bytes:
        return elf.read(address - base, size)

    frames = CallFrames.of_image(read, base + segment.vaddr)
    where = {name: range(r.start + base, r.stop + base) for name, r in symbols(path).items()}
    assert {name: rows(frames, place) for name, place in where.items()} == reference


def libraries() -> list[str]:
    """What Python itself needs, and the C++ library."""
    wanted = ("libc.so", "ld-linux", "libm.so", "libpython", "python")
    with open("/proc/self/maps", encoding="utf-8") as file:
        mapped = {line.split()[-1] for line in file if " r-xp " in line}
    mapped = {path for path in mapped if os.path.basename(path).startswith(wanted)}
    command = ["gcc", "-print-file-name=libstdc++.so.6"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return sorted({*mapped, os.path.realpath(found)})


@pytest.mark.parametrize("path", libraries(), ids=os.path.basename)
def test_every_row_is_as_readelf_has_it(path: str) -> None:
    assert compare_with_readelf(path) > 1


@pytest.mark.parametrize("name", ["simple-static", "simple-static-pie", "simple"])
def test_every_row_of_a_program_is_as_readelf_has_it(name: str) -> None:
    assert compare_with_readelf(executable(name)) > 30


def compare_with_readelf(path: str) -> int:
    """Compare all rows at their first and last byte; return how many there are."""
    frames, count = CallFrames.of_file(ElfFile.open(path)), 0
    for line in readelf_frames.lines(path):
        if line.start == line.end:
            continue
        for pc in (line.start, line.end - 1):
            row = frames.row(pc)
            assert row is not None, hex(pc)
            assert readelf_frames.cells(row, list(line.cells)) == line.cells, hex(pc)
        count += 1
    return count


# ---- .eh_frame_hdr ----

FUNCTIONS = [0x2000, 0x2100, 0x2110, 0x3000]
SIZE = 0x10


def with_header(
    table: int, pointer: int, count: int, header_first: bool = True
) -> tuple[Callable[[int, int], bytes], int]:
    """A .eh_frame for FUNCTIONS, with a header of the given encodings; how to read both."""
    fdes = [FdeSpec(struct.pack("<QQ", start, SIZE)) for start in FUNCTIONS]
    data, (_, *places) = build([CieSpec(), *fdes])
    header = 0x800 if header_first else 0x8000
    made = bytes((1, pointer, count, table))

    def put(value: int, encoding: int) -> bytes:
        bases = {c.DW_EH_PE_pcrel: header + len(made), c.DW_EH_PE_datarel: header}
        return number(value - bases.get(encoding & 0x70, 0), encoding & 0x0F)

    made += put(SECTION, pointer)
    if c.DW_EH_PE_omit not in (count, table):
        made += put(len(FUNCTIONS), count)
        for start, place in zip(FUNCTIONS, places, strict=True):
            made += put(start, table) + put(place, table)
    memory = bytearray(0x9000)
    memory[SECTION : SECTION + len(data)] = data
    memory[header : header + len(made)] = made
    return (lambda address, size: bytes(memory[address : address + size])), header


DATAREL, PCREL = c.DW_EH_PE_datarel, c.DW_EH_PE_pcrel
ENCODINGS = {
    "as linkers write it": (DATAREL | c.DW_EH_PE_sdata4, PCREL | c.DW_EH_PE_sdata4,
                            c.DW_EH_PE_udata4),
    "64-bit": (DATAREL | c.DW_EH_PE_sdata8, PCREL | c.DW_EH_PE_sdata8, c.DW_EH_PE_udata8),
    "absolute": (c.DW_EH_PE_udata4, c.DW_EH_PE_udata4, c.DW_EH_PE_udata2),
    "absolute 64-bit": (c.DW_EH_PE_absptr, c.DW_EH_PE_absptr, c.DW_EH_PE_absptr),
    "no table": (c.DW_EH_PE_omit, PCREL | c.DW_EH_PE_sdata4, c.DW_EH_PE_omit),
    "a table that can't be searched": (PCREL | c.DW_EH_PE_sdata4, PCREL | c.DW_EH_PE_sdata4,
                                       c.DW_EH_PE_udata4),
    "of variable size": (DATAREL | c.DW_EH_PE_sleb128, PCREL | c.DW_EH_PE_sdata4,
                         c.DW_EH_PE_uleb128),
    "16-bit": (DATAREL | c.DW_EH_PE_sdata2, PCREL | c.DW_EH_PE_sdata2, c.DW_EH_PE_udata2),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("header_first", [True, False], ids=["before", "behind"])
def test_header_encodings(name: str, header_first: bool) -> None:
    table, pointer, count = ENCODINGS[name]
    read, header = with_header(table, pointer, count, header_first)
    frames = CallFrames.of_image(read, header)
    covered = {pc for start in FUNCTIONS for pc in range(start, start + SIZE)}
    for pc in range(0x1FF0, 0x3020):
        row: Row | None = frames.row(pc)
        assert (row is not None) == (pc in covered), hex(pc)


@pytest.mark.parametrize(
    "damage, reason",
    [
        (b"\x02", "version 2"),
        (bytes((1, PCREL | 0x0B, 3, DATAREL | 0x0B)) + b"\xff" * 8, "entries"),
        (bytes((1, 0x05)), "format"),
    ],
)
def test_a_damaged_header_is_refused(damage: bytes, reason: str) -> None:
    with pytest.raises(DwarfError, match=reason):
        read_header(lambda _, size: damage.ljust(size, b"\0")[:size], 0x1000)


def test_code_that_was_dropped_hides_nothing() -> None:
    """Linkers leave FDEs of dropped functions in .debug_frame, at address 0."""
    fdes = [FdeSpec(struct.pack("<QQ", start, 1 << 20)) for start in (0, 0x2000, 0)]
    data, _ = build([CieSpec(), *fdes], eh=False)
    frames = Frames(section(data, eh=False))
    assert frames.find(0x10) is None
    found = frames.find(0x2010)
    assert found is not None
    assert found.start == 0x2000

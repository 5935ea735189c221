# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame instructions, as the GNU assembler writes them: each with the row that it means."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from hotpatch.dwarf import cfi
from hotpatch.dwarf.cfi import Cfa, Row, Rule, row_at
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.file import CallFrames
from hotpatch.elf.file import ElfFile
from tests.dwarf import readelf_frames
from tests.dwarf.builder import CieSpec, FdeSpec, build, section, sleb128, uleb128

RBX, RBP, RSP, R12, RA = 3, 6, 7, 12, 16
OFFSET = {RA: Rule(cfi.OFFSET, -8)}


class Story(NamedTuple):
    """Assembly for one function; what it says of its last instruction."""

    name: str
    text: str
    cfa: Cfa
    rules: dict[int, Rule]


def after(*directives: str) -> str:
    """One nop, the directives, one nop."""
    return "\n".join(("nop", *(f".cfi_{directive}" for directive in directives), "nop"))


def escape(*values: int) -> str:
    return "escape " + ",".join(map(str, values))


PUSHED = ("def_cfa_offset 16", "offset rbp, -16")
SAVED = {**OFFSET, RBP: Rule(cfi.OFFSET, -16)}
STORIES = [
    Story("nothing", after(), Cfa(RSP, 8), OFFSET),
    Story("push", after(*PUSHED), Cfa(RSP, 16), SAVED),
    Story("frame", after(*PUSHED, "def_cfa_register rbp"), Cfa(RBP, 16), SAVED),
    Story("def_cfa", after("def_cfa rbx, 24"), Cfa(RBX, 24), OFFSET),
    Story("adjust", after("adjust_cfa_offset 40"), Cfa(RSP, 48), OFFSET),
    Story("negative", after("def_cfa rbx, -24"), Cfa(RBX, -24), OFFSET),
    Story("negative_offset", after("def_cfa_offset -16"), Cfa(RSP, -16), OFFSET),
    Story("above", after("offset rbx, 16"), Cfa(RSP, 8), {**OFFSET, RBX: Rule(cfi.OFFSET, 16)}),
    Story("high", after("offset 70, -24"), Cfa(RSP, 8), {**OFFSET, 70: Rule(cfi.OFFSET, -24)}),
    Story("undefined", after("undefined rip"), Cfa(RSP, 8), {RA: Rule(cfi.UNDEFINED)}),
    Story("same", after("same_value rbx"), Cfa(RSP, 8), {**OFFSET, RBX: Rule(cfi.SAME_VALUE)}),
    Story("register", after("register rbx, r12"), Cfa(RSP, 8),
          {**OFFSET, RBX: Rule(cfi.REGISTER, R12)}),
    Story("val_offset", after("val_offset rbx, -32"), Cfa(RSP, 8),
          {**OFFSET, RBX: Rule(cfi.VAL_OFFSET, -32)}),
    Story("val_offset_sf", after(escape(0x15, RBX, *sleb128(-4))), Cfa(RSP, 8),
          {**OFFSET, RBX: Rule(cfi.VAL_OFFSET, 32)}),
    Story("restore", after(*PUSHED, "restore rbp"), Cfa(RSP, 16), OFFSET),
    Story("restore_ra", after("undefined rip", "restore rip"), Cfa(RSP, 8), OFFSET),
    Story("restore_high", after("offset 70, -24", "restore 70"), Cfa(RSP, 8), OFFSET),
    Story("restored_state", after("remember_state", *PUSHED, "restore_state"), Cfa(RSP, 8), OFFSET),
    Story("two_states", after("remember_state", *PUSHED, "remember_state", "def_cfa rbp, 16",
                              "offset rbx, -24", "restore_state"), Cfa(RSP, 16), SAVED),
    Story("cfa_expression", after(escape(0x0F, 3, 0x77, 0x10, 0x06)), Cfa(0, 0, b"\x77\x10\x06"),
          OFFSET),
    Story("expression", after(escape(0x10, RBX, 2, 0x77, 0x08)), Cfa(RSP, 8),
          {**OFFSET, RBX: Rule(cfi.EXPRESSION, 0, b"\x77\x08")}),
    Story("val_expression", after(escape(0x16, RBX, 2, 0x77, 0x08)), Cfa(RSP, 8),
          {**OFFSET, RBX: Rule(cfi.VAL_EXPRESSION, 0, b"\x77\x08")}),
    Story("args_size", after(escape(0x2E, 0x90, 0x01), *PUSHED), Cfa(RSP, 16), SAVED),
    Story("negative_offset_extended", after(escape(0x2F, RBX, *uleb128(2))), Cfa(RSP, 8),
          {**OFFSET, RBX: Rule(cfi.OFFSET, 16)}),
    Story("nops", after(escape(0, 0, 0), *PUSHED), Cfa(RSP, 16), SAVED),
    Story("far", f"{after(*PUSHED)}\n.fill 63, 1, 0x90\n.cfi_def_cfa_offset 24\nnop",
          Cfa(RSP, 24), SAVED),
    Story("farther", f"{after(*PUSHED)}\n.fill 255, 1, 0x90\n.cfi_def_cfa_offset 24\nnop",
          Cfa(RSP, 24), SAVED),
    Story("farthest", f"{after(*PUSHED)}\n.fill 65536, 1, 0x90\n.cfi_def_cfa_offset 24\nnop",
          Cfa(RSP, 24), SAVED),
]  # fmt: skip


def source(story: Story) -> str:
    name = story.name
    body = f"{name}:\n.cfi_startproc\n{story.text}\n.cfi_endproc\n"
    return f".globl {name}\n.type {name}, @function\n{body}.size {name}, . - {name}\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ElfFile:
    """All stories, assembled and linked."""
    directory = tmp_path_factory.mktemp("cfi")
    path = Path(directory, "stories.s")
    path.write_text("".join(map(source, STORIES)))
    output = os.fspath(directory / "stories.so")
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", output, path], check=True)
    return ElfFile.open(output)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_story(library: ElfFile, story: Story) -> None:
    (symbol,) = library.symbols.by_name(story.name)
    frames = CallFrames.of_file(library)
    last, end = symbol.value + symbol.size - 1, symbol.value + symbol.size
    row = frames.row(last)
    assert row is not None
    assert (row.cfa, row.rules, row.return_address) == (story.cfa, story.rules, RA)
    first = frames.row(symbol.value)
    assert first == Row(symbol.value, Cfa(RSP, 8), OFFSET, RA, False)
    following = frames.row(end)
    assert following is None or following.start == end


def test_readelf_reads_the_same(library: ElfFile) -> None:
    frames, seen = CallFrames.of_file(library), 0
    for line in readelf_frames.lines(library.name):
        for pc in (line.start, line.end - 1):
            row = frames.row(pc)
            assert row is not None
            assert readelf_frames.cells(row, list(line.cells)) == line.cells, hex(pc)
            seen += 1
    assert seen > len(STORIES)


START = 0x4000


def rows_of(instructions: bytes, cie: CieSpec | None = None, at: int = 0) -> Row:
    code = START.to_bytes(8, "little") + (1 << 40).to_bytes(8, "little")
    data, _ = build([cie or CieSpec(), FdeSpec(code, instructions)])
    frames = section(data)
    ((_, fde),) = frames.fdes()
    return row_at(fde, START + at, frames.read)


@pytest.mark.parametrize(
    "instructions, place",
    [
        (b"\x43", 3 * 4),
        (b"\x02\x80", 128 * 4),
        (b"\x03\x80\x01", 0x180 * 4),
        (b"\x04\x00\x00\x01\x00", 0x10000 * 4),
        (b"\x1d\x00\x00\x00\x01\x00\x00\x00\x00", 0x1000000 * 4),
        (b"\x01" + (START + 0x77).to_bytes(8, "little"), 0x77),
    ],
    ids=["advance_loc", "advance_loc1", "advance_loc2", "advance_loc4", "advance_loc8", "set_loc"],
)
def test_advances_count_in_the_alignment_of_code(instructions: bytes, place: int) -> None:
    cie = CieSpec(code_alignment=4)
    later = instructions + b"\x0e\x20"
    assert rows_of(later, cie, place - 1).cfa == Cfa(RSP, 8)
    row = rows_of(later, cie, place)
    assert (row.start, row.cfa) == (START + place, Cfa(RSP, 32))


def test_offsets_count_in_the_alignment_of_data() -> None:
    cie = CieSpec(data_alignment=-4, instructions=b"\x0c\x07\x08\x90\x02")
    instructions = b"\x86\x04\x12\x06\x7c\x05\x03\x06\x11\x0c\x7f\x14\x0d\x02"
    row = rows_of(instructions, cie)
    assert row.cfa == Cfa(RBP, 16)
    assert row.rules == {
        RA: Rule(cfi.OFFSET, -8),
        RBP: Rule(cfi.OFFSET, -16),
        RBX: Rule(cfi.OFFSET, -24),
        R12: Rule(cfi.OFFSET, 4),
        13: Rule(cfi.VAL_OFFSET, -8),
    }


@pytest.mark.parametrize(
    "instructions, reason",
    [
        (b"\x0b", "not remembered"),
        (b"\x0a" * 1000, "remembered"),
        (b"\x0f\x01\x30\x0d\x06", "half"),
        (b"\x0f\x01\x30\x0e\x10", "half"),
        (b"\x0e", "early"),
        (b"\x0f\x05\x30", "early"),
        (b"\x2d", "0x2d"),
        (b"\x3f", "0x3f"),
    ],
)
def test_what_makes_no_sense_is_refused(instructions: bytes, reason: str) -> None:
    with pytest.raises(DwarfError, match=reason):
        rows_of(instructions)


def test_no_cfa_is_refused() -> None:
    with pytest.raises(DwarfError, match="no CFA"):
        rows_of(b"", CieSpec(instructions=b""))
    with pytest.raises(DwarfError, match="restores"):
        rows_of(b"", CieSpec(instructions=b"\xc6"))

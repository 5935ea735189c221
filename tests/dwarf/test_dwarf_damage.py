# SPDX-License-Identifier: GPL-2.0-or-later
"""Any damage to call frame information is not noticed, or a DwarfError; at once either way."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
import tracemalloc
from collections.abc import Callable
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from hotpatch.dwarf.cfi import Row
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.file import CallFrames
from hotpatch.elf.file import ElfFile
from hotpatch.quiescence import rules
from tests.dwarf.builder import SECTION, CieSpec, FdeSpec, build

FUNCTIONS = """
.globl work
.type work, @function
work:
.cfi_startproc
nop
.cfi_remember_state
.cfi_def_cfa_offset 16
.cfi_offset rbp, -16
nop
.cfi_def_cfa_register rbp
.cfi_escape 0x10, 3, 2, 0x77, 8
.cfi_escape 0x16, 12, 7, 0x77, 8, 6, 0x31, 0x28, 0xf8, 0xff
.cfi_register r13, r14
nop
.cfi_escape 0x0f, 5, 0x77, 8, 6, 0x23, 8
nop
.cfi_restore_state
nop
.fill 300, 1, 0x90
.cfi_undefined rip
nop
.cfi_endproc
.size work, . - work
"""
EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC)
MOST_MEMORY = 8 << 20
KINDS = ("-Wl,--eh-frame-hdr", "-Wl,--no-eh-frame-hdr", "debug_frame")


@functools.cache
def library(kind: str) -> tuple[bytes, range, tuple[range, ...]]:
    """A library; where its function is, and at which offsets the tables are."""
    text, flags = FUNCTIONS, [kind]
    if kind == "debug_frame":
        text, flags = ".cfi_sections .debug_frame\n" + FUNCTIONS, ["-Wl,--no-eh-frame-hdr"]
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/library.so"
        command = ["gcc", "-shared", "-nostdlib", "-x", "assembler", "-", "-o", path, *flags]
        subprocess.run(command, input=text.encode(), check=True)
        elf = ElfFile.open(path)
        with open(path, "rb") as file:
            content = file.read()
    (symbol,) = elf.symbols.by_name("work")
    names = (".eh_frame", ".eh_frame_hdr", ".debug_frame")
    tables = tuple(
        range(s.offset, s.offset + s.size) for s in elf.sections if s.size and s.name in names
    )
    return content, range(symbol.value, symbol.value + symbol.size), tables


changes = st.lists(
    st.tuples(
        st.integers(0, 1 << 16),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([struct.pack("<I", value) for value in EXTREME]),
        ),
    ),
    min_size=1,
    max_size=4,
)


def read_stack(address: int, size: int) -> bytes:
    if 0x1000 <= address < 0x10000:
        return (address.to_bytes(8, "little") * (size // 8 + 1))[:size]
    raise OSError(14, "not mapped")


def use(row: Row) -> None:
    """Do with a row what unwinding does."""
    values: list[int | None] = [0x1000 + 0x100 * number for number in range(17)]
    rules.prepare(row)
    try:
        rules.apply(row, values, read_stack)
    except (DwarfError, OSError, struct.error):
        return
    assert all(value is None or 0 <= value < 1 << 64 for value in values)


def ask_everything(frames: CallFrames, where: range) -> None:
    for pc in (0, *where, where.stop, 1 << 40):
        try:
            row = frames.row(pc)
        except DwarfError:
            continue
        if row is not None:
            use(row)


def bounded(action: Callable[[], None]) -> None:
    """Run it, and see that it took little memory."""
    tracemalloc.start()
    try:
        action()
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@settings(deadline=timedelta(seconds=5), max_examples=150)
@given(st.sampled_from(KINDS), changes)
def test_changed_bytes(kind: str, wanted: list[tuple[int, bytes]]) -> None:
    content, where, tables = library(kind)
    offsets = [offset for table in tables for offset in table]
    damaged = bytearray(content)
    for number, data in wanted:
        at = offsets[number % len(offsets)]
        damaged[at : at + len(data)] = data
    elf = ElfFile.from_bytes(bytes(damaged[: len(content)]))
    bounded(lambda: ask_everything(CallFrames.of_file(elf), where))


@settings(deadline=timedelta(seconds=5), max_examples=50)
@given(st.sampled_from(KINDS), st.integers(0, 1 << 16))
def test_a_file_that_ends_early(kind: str, number: int) -> None:
    content, where, tables = library(kind)
    offsets = [offset for table in tables for offset in table]
    elf = ElfFile.from_bytes(content[: offsets[number % len(offsets)]])
    bounded(lambda: ask_everything(CallFrames.of_file(elf), where))


@settings(deadline=timedelta(seconds=5), max_examples=100)
@given(st.binary(max_size=60), st.binary(max_size=60), st.booleans())
def test_any_instructions(common: bytes, own: bytes, signal: bool) -> None:
    augmentation = (b"zRS" if signal else b"zR", b"\x01\x00")
    cie = CieSpec(*augmentation, instructions=CieSpec().instructions + common)
    code = struct.pack("<QQ", 0x2000, 0x100)
    data, (_, fde) = build([cie, FdeSpec(code, own, b"\x00")])
    header = struct.pack("<BBBBIIIIi", 1, 3, 3, 3, SECTION, 1, 0x2000, fde, 0)

    def read(address: int, size: int) -> bytes:
        memory = header.ljust(SECTION, b"\0") + data
        return memory[address : address + size]

    bounded(lambda: ask_everything(CallFrames.of_image(read, 0), range(0x2000, 0x2100, 17)))


def test_undamaged_tables_are_used_to_the_end() -> None:
    for kind in KINDS:
        content, where, tables = library(kind)
        frames = CallFrames.of_file(ElfFile.from_bytes(content))
        found = [frames.row(pc) for pc in where]
        assert len(tables) == (2 if kind == KINDS[0] else 1)
        assert len(set(map(repr, found))) == 6, kind

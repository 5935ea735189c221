# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes, whatever they are padded to."""

from __future__ import annotations

import struct

import elf_builder
import pytest
from elf_builder import Part

from hotpatch.elf import constants as c
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.elf.notes import Note


def note(name: bytes, kind: int, desc: bytes, align: int) -> bytes:
    data = struct.pack("<III", len(name), len(desc), kind) + name
    data += bytes(-len(data) % align) + desc
    return data + bytes(-len(data) % align)


@pytest.mark.parametrize("align", [4, 8])
@pytest.mark.parametrize("sections", [True, False], ids=["sections", "segments"])
def test_notes_are_read_from_sections_or_segments(align: int, sections: bool) -> None:
    data = note(b"stapsdt\0", 3, b"12345", align) + note(b"GNU\0", 3, b"build", align)
    part = Part(".note", c.SHT_NOTE, data, align=align)
    elf = ElfFile.from_bytes(elf_builder.build([part], sections=sections))
    assert elf.notes == (Note("stapsdt", 3, b"12345"), Note("GNU", 3, b"build"))
    assert elf.build_id == b"build"


def test_zero_padding_between_notes_is_not_the_end() -> None:
    data = note(b"GNU\0", 1, b"abi!", 4) + bytes(12) + note(b"GNU\0", 3, b"id", 4)
    elf = ElfFile.from_bytes(elf_builder.build([Part(".note", c.SHT_NOTE, data, align=4)]))
    assert elf.build_id == b"id"


def test_file_without_notes_has_no_build_id() -> None:
    elf = ElfFile.from_bytes(elf_builder.build([]))
    assert (elf.notes, elf.build_id) == ((), None)


@pytest.mark.parametrize("field", [0, 4], ids=["namesz", "descsz"])
def test_note_that_is_longer_than_its_section_is_damage(field: int) -> None:
    data = bytearray(note(b"GNU\0", 3, b"build-id", 4))
    struct.pack_into("<I", data, field, 0xFFFFFFFF)
    elf = ElfFile.from_bytes(elf_builder.build([Part(".note", c.SHT_NOTE, bytes(data), align=4)]))
    with pytest.raises(ElfError, match="note is longer than its section"):
        _ = elf.build_id

# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes, and among them the build-id (gABI, "Note Section")."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from hotpatch.elf import constants as c
from hotpatch.elf.content import Content
from hotpatch.elf.header import Section, Segment

_NHDR = Struct("<III")


class Note(NamedTuple):
    """Elf64_Nhdr with its name (without NUL) and descriptor."""

    name: str
    type: int
    desc: bytes


def segment_notes(content: Content, segments: tuple[Segment, ...]) -> tuple[Note, ...]:
    """Return the notes of all PT_NOTE segments."""
    notes: list[Note] = []
    for segment in segments:
        if segment.type == c.PT_NOTE:
            notes += read_notes(content, segment.offset, segment.filesz, segment.align)
    return tuple(notes)


def section_notes(content: Content, sections: tuple[Section, ...]) -> tuple[Note, ...]:
    """Return the notes of all SHT_NOTE sections."""
    notes: list[Note] = []
    for section in sections:
        if section.type == c.SHT_NOTE:
            notes += read_notes(content, section.offset, section.size, section.align)
    return tuple(notes)


def read_notes(content: Content, offset: int, size: int, align: int) -> Iterator[Note]:
    """Yield the notes in `size` bytes at file `offset`.

    `align` is 8 where descriptors and notes are padded to eight bytes (.note.gnu.property); the
    gABI asks for it everywhere, but practically all others are padded to four.
    """
    raw = content.take(offset, size, "notes")
    step = 8 if align == 8 else 4
    at = 0
    while at + _NHDR.size <= len(raw):
        namesz, descsz, kind = _NHDR.unpack_from(raw, at)
        name = at + _NHDR.size
        desc = _aligned(name + namesz, step)
        if desc + descsz > len(raw):
            raise content.error("note is longer than its section", offset + at)
        text = raw[name : name + namesz].rstrip(b"\0").decode("utf-8", "replace")
        yield Note(text, kind, raw[desc : desc + descsz])
        at = _aligned(desc + descsz, step)


def build_id(notes: tuple[Note, ...]) -> bytes | None:
    """Return the descriptor of NT_GNU_BUILD_ID."""
    for note in notes:
        if note.name == "GNU" and note.type == c.NT_GNU_BUILD_ID:
            return note.desc
    return None


def _aligned(value: int, step: int) -> int:
    return (value + step - 1) & -step

# SPDX-License-Identifier: GPL-2.0-or-later
"""Places: fields of a built patch that refer to the target by addresses of one build.

`hotpatch build` compiles code as the program's own is compiled: it counts on being near to what
it refers to, and often can't be relocated by what a shared object may have. The section
`hotpatch_places` lists such fields. An entry is

    struct { void *place; const char *name; int64_t value; uint32_t type, inside; };

with a relocation type of the psABI. `value` is S + A: a virtual address of the module that the
patch is made for, or an offset in its thread-local block; with `inside` set it points into the
patch.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import relocations as r

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile

SECTION = "hotpatch_places"
PLACE, NAME, VALUE = 0, 8, 16
"""Offsets of the fields that are pointers."""

THREAD_TYPES = r.TLS_TYPES | {r.R_X86_64_TPOFF32}
PLACE_TYPES = frozenset(r.RULES) | THREAD_TYPES

_ENTRY = Struct("<QQqII")


class PlaceEntry(NamedTuple):
    """A field at virtual address `offset` of the patch; `value` is of the module, or `inside`."""

    offset: int
    type: int
    value: int
    inside: bool
    name: int
    """Virtual address of the name of what it refers to, 0 for none."""


def pack(value: int, type_: int, *, inside: bool) -> bytes:
    """Return an entry without its pointers, which are relocations' to fill."""
    return _ENTRY.pack(0, 0, value, type_, inside)


def read_places(elf: ElfFile) -> list[PlaceEntry]:
    """Return the entries of a patch; raises ElfError where they are damaged."""
    from hotpatch.elf.content import ElfError  # noqa: PLC0415

    section = elf.section(SECTION)
    if section is None:
        return []
    if section.size % _ENTRY.size:
        raise ElfError(f"{section.size} bytes of places are no whole number", name=elf.name)
    here = range(section.addr, section.addr + section.size)
    pointers = {r.offset: r.addend for r in elf.relocations if r.offset in here}
    found = []
    content = elf.read(section.addr, section.size)
    for at, (place, name, value, type_, inside) in zip(
        here[:: _ENTRY.size], _ENTRY.iter_unpack(content), strict=True
    ):
        offset = _pointer(pointers.get(at + PLACE), place)
        where = _pointer(pointers.get(at + VALUE), value)
        found.append(
            PlaceEntry(offset, type_, where, bool(inside), _pointer(pointers.get(at + NAME), name))
        )
    return found


def _pointer(addend: int | None, in_place: int) -> int:
    return in_place if addend is None else addend

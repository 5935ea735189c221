# SPDX-License-Identifier: GPL-2.0-or-later
"""The .eh_frame of an object file, entry by entry, with the references of each.

An FDE is about the function that its first field refers to, and begins with the distance back to
its CIE (Linux Standard Base, "Exception Frames").
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from hotpatch.build.objects import Object, Reference
from hotpatch.elf.content import ElfError
from hotpatch.elf.header import Section

_LENGTH = Struct("<I")
_CIE_POINTER = 4  # its offset in an entry; 0 there makes a CIE
_PC_BEGIN = 8


class Entry(NamedTuple):
    """A CIE or FDE: its bytes, with the length; `cie` is the offset of its CIE, None for one."""

    section: Section
    offset: int
    data: bytes
    cie: int | None
    references: tuple[Reference, ...]


class Unwinding:
    """The entries of an object's .eh_frame sections."""

    def __init__(self, obj: Object) -> None:
        """Read them; raises ElfError."""
        self._cies: dict[tuple[int, int], Entry] = {}
        self._fdes: dict[int, list[Entry]] = defaultdict(list)
        for section in obj.elf.sections:
            if section.name == ".eh_frame":
                self._read(obj, section)

    def of(self, atom: int) -> list[Entry]:
        """Return the entries that a function needs, each CIE before its FDE."""
        found: list[Entry] = []
        for fde in self._fdes.get(atom, ()):
            cie = self._cies.get((fde.section.index, fde.cie or 0))
            if cie is None:
                raise ElfError(f"an FDE at {fde.offset:#x} without a CIE")
            found += [cie, fde]
        return found

    def _read(self, obj: Object, section: Section) -> None:
        data, at = obj.section_data(section), 0
        rows = obj.relocations(section.index)
        while at + 4 <= len(data):
            (length,) = _LENGTH.unpack_from(data, at)
            end = at + 4 + length
            if not length:
                break
            if end > len(data) or length < 4:
                raise ElfError(f"an entry of .eh_frame at {at:#x} that does not end", name=obj.path)
            (pointer,) = _LENGTH.unpack_from(data, at + _CIE_POINTER)
            references = tuple(
                obj.reference(section, row, at) for row in rows if at <= row.offset < end
            )
            cie = at + _CIE_POINTER - pointer if pointer else None
            self._add(Entry(section, at, data[at:end], cie, references))
            at = end

    def _add(self, entry: Entry) -> None:
        if entry.cie is None:
            self._cies[entry.section.index, entry.offset] = entry
            return
        for reference in entry.references:
            if reference.offset == _PC_BEGIN and reference.atom is not None:
                self._fdes[reference.atom].append(entry)


@lru_cache(maxsize=64)
def unwinding(obj: Object) -> Unwinding:
    """Return the unwinding information of an object, read once."""
    return Unwinding(obj)

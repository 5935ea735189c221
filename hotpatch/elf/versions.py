# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbol versions: DT_VERSYM, DT_VERDEF and DT_VERNEED (LSB, "Symbol Versioning").

Each dynamic symbol has a 16-bit index into the names that the file defines (verdef) and needs
(verneed); its top bit hides a definition from references without version.
"""

from __future__ import annotations

from struct import Struct

from hotpatch.elf import constants as c
from hotpatch.elf.content import Content
from hotpatch.elf.strings import StringTable

_VERDEF = Struct("<HHHHIII")  # version, flags, ndx, cnt, hash, aux, next
_VERDAUX = Struct("<II")  # name, next
_VERNEED = Struct("<HHIII")  # version, cnt, file, aux, next
_VERNAUX = Struct("<IHHII")  # hash, flags, other, name, next


class Versions:
    """The version of every row of one dynamic symbol table."""

    def __init__(self, indices: list[int], names: dict[int, str]) -> None:
        """Take the versym `indices`, one a symbol, and the `names` by index."""
        self._indices = indices
        self._names = names

    def version(self, row: int) -> str | None:
        """Return the version of symbol `row`; None for local and global, which have none."""
        return self._names.get(self._indices[row] & c.VERSYM_VERSION)

    def hidden(self, row: int) -> bool:
        """Tell whether only references that name the version bind to symbol `row`."""
        return bool(self._indices[row] & c.VERSYM_HIDDEN)

    def columns(self) -> tuple[list[str | None], list[bool]]:
        """Return `version` and `hidden` of all rows."""
        get, mask, hidden = self._names.get, c.VERSYM_VERSION, c.VERSYM_HIDDEN
        return [get(i & mask) for i in self._indices], [i >= hidden for i in self._indices]


def defined_names(
    content: Content, offset: int, count: int, strings: StringTable
) -> dict[int, str]:
    """Return the version names by index of the `count` Elf64_Verdef at file `offset`."""
    wanted: dict[int, int] = {}
    for _ in range(min(count, len(content) // _VERDEF.size)):
        _, _, index, _, _, aux, step = content.unpack(_VERDEF, offset, "version definition")
        # The first auxiliary entry names the version, the others its parents.
        name, _ = content.unpack(_VERDAUX, offset + aux, "version definition name")
        wanted[index & c.VERSYM_VERSION] = name
        offset += step
        if not step:
            break
    return _names(wanted, strings)


def needed_names(content: Content, offset: int, count: int, strings: StringTable) -> dict[int, str]:
    """Return the version names by index of the `count` Elf64_Verneed at file `offset`."""
    wanted: dict[int, int] = {}
    # Entries can't overlap, so a chain with more of them than fit the file goes in circles.
    budget = len(content) // _VERNAUX.size
    for _ in range(min(count, budget)):
        _, entries, _, aux, step = content.unpack(_VERNEED, offset, "version need")
        budget -= entries
        if budget < 0:
            raise content.error("more version needs than the file can hold", offset)
        _read_vernaux(content, offset + aux, entries, wanted)
        offset += step
        if not step:
            break
    return _names(wanted, strings)


def _read_vernaux(content: Content, offset: int, entries: int, wanted: dict[int, int]) -> None:
    for _ in range(entries):
        _, _, index, name, step = content.unpack(_VERNAUX, offset, "needed version")
        wanted[index & c.VERSYM_VERSION] = name
        offset += step
        if not step:
            break


def _names(wanted: dict[int, int], strings: StringTable) -> dict[int, str]:
    for reserved in (c.VER_NDX_LOCAL, c.VER_NDX_GLOBAL):
        wanted.pop(reserved, None)
    return dict(zip(wanted, strings.many(wanted.values()), strict=True))

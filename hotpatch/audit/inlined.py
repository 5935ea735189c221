# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of replaced functions that the compiler has inlined in others (`copies_left`).

A caller that has its own copy goes on with the old code, whatever the entry leads to. The debug
information lists such copies (DW_TAG_inlined_subroutine; DWARF 5, 3.3.8.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hotpatch.audit.users import is_listed, listing
from hotpatch.dwarf import constants as c
from hotpatch.dwarf.functions import Functions
from hotpatch.dwarf.names import Names
from hotpatch.dwarf.units import Unit
from hotpatch.link.scope import same_file

if TYPE_CHECKING:
    from hotpatch.audit.types import Replaced
    from hotpatch.patch.file import PatchFile


def copies_left(names: Names, patch: PatchFile, replaced: Sequence[Replaced]) -> list[str]:
    """Return a sentence for each replaced function that others have a copy of, which stay."""
    known = {(r.replacement.name, r.replacement.file) for r in replaced}
    known |= {(u.name, u.file) for u in patch.unaffected}
    copies = _Copies(names)
    problems = []
    for replacement, _ in replaced:
        left = {
            (holder, file)
            for holder, file in copies.holders(replacement.name, replacement.file)
            if holder != replacement.name and not is_listed(holder, file, known)
        }
        if left:
            problems.append(
                f"`{replacement.name}` is inlined in {listing(left)}, where its old code stays"
            )
    return problems


class _Copies:
    """The inlined copies in a file; each unit is gone through once."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._units: dict[int, list[tuple[int, int]]] = {}

    def holders(self, name: str, file: str | None) -> Iterator[tuple[str, str]]:
        """Yield the functions that a copy of `name` is in, with their source files."""
        units = self._names.types.units
        found = self._names.functions(name)
        own = {f.ref for f in found if file is None or same_file(f.file, file)}
        for offset in sorted({units.containing(ref).header.offset for ref in own}):
            unit = units.at(offset)
            source = unit.string(unit.root.get(c.DW_AT_name))
            if offset not in self._units:
                self._units[offset] = list(self._all(unit))
            for origin, holder in self._units[offset]:
                if origin in own:
                    yield units.name(unit, holder), source

    def _all(self, unit: Unit) -> Iterator[tuple[int, int]]:
        """Yield what each copy in a unit is of, by reference, and the function that it is in."""
        for copy, holder in Functions(unit).copies():
            origin = unit.entry(copy.offset)[1].get(c.DW_AT_abstract_origin)
            other = self._names.types.units.refer(unit, origin) if origin else None
            if other is not None:
                yield other[0].header.offset + other[1], holder.offset

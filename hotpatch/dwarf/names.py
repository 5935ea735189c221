# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file's debug information defines, by name: `Names`.

Only the entries directly within the units (and within namespaces) are looked at, once: types,
variables and functions. A type that several source files describe is there once for each.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.tree import top_level
from hotpatch.dwarf.types import COMPOUND, ENUM, Ref, Type, Types

_TYPES = frozenset((
    c.DW_TAG_structure_type, c.DW_TAG_union_type, c.DW_TAG_class_type, c.DW_TAG_enumeration_type,
    c.DW_TAG_typedef, c.DW_TAG_base_type,
))  # fmt: skip
_TAGGED = frozenset((
    c.DW_TAG_structure_type, c.DW_TAG_union_type, c.DW_TAG_class_type, c.DW_TAG_enumeration_type,
))  # fmt: skip
_OBJECTS = frozenset((c.DW_TAG_variable, c.DW_TAG_subprogram))
_WANTED = _TYPES | _OBJECTS


class Named(NamedTuple):
    """A variable or a function; `file` is the source that was compiled, as it was named then."""

    name: str
    ref: Ref
    type: Ref | None
    """A variable's type; of a function, the function itself."""
    file: str
    static: bool
    declaration: bool
    function: bool


class Names:
    """The names of one file."""

    def __init__(self, types: Types) -> None:
        """Use the debug information of `types`; it is gone through when first asked."""
        self.types = types

    def definitions(self, tag: str) -> list[Ref]:
        """Return where `struct x`, `union x`, `enum x` or a typedef `x` is defined."""
        return self._index[0].get(tag, [])

    def variables(self, name: str) -> list[Named]:
        """Return the variables of that name, definitions first."""
        return [found for found in self._objects(name) if not found.function]

    def functions(self, name: str) -> list[Named]:
        """Return the functions of that name, definitions first."""
        return [found for found in self._objects(name) if found.function]

    def tags(self) -> list[str]:
        """Return the names of all types that are defined: `struct x`, and so on."""
        return list(self._index[0])

    def all_objects(self) -> list[str]:
        """Return the names of all variables and functions."""
        return list(self._index[1])

    def complete(self, ref: Ref) -> Ref:
        """Return the definition of a type that is only declared at `ref`, if there is one."""
        found = self.types.get(ref)
        if not found.declaration:
            return ref
        return next(iter(self.definitions(tag_of(found))), ref)

    def _objects(self, name: str) -> list[Named]:
        found = []
        for ref in self._index[1].get(name, ()):
            named = self._named(name, ref)
            if named is not None:
                found.append(named)
        return sorted(found, key=lambda named: named.declaration)

    def _named(self, name: str, ref: Ref) -> Named | None:
        unit = self.types.units.containing(ref)
        tag, values = unit.entry(ref - unit.header.offset)
        origin = values.get(c.DW_AT_specification) or values.get(c.DW_AT_abstract_origin)
        function = tag == c.DW_TAG_subprogram
        type_ = ref if function else self.types.reference(unit, values)
        external = c.DW_AT_external in values
        if origin is not None:
            other = self.types.units.refer(unit, origin)
            if other is None:
                return None
            _, inherited = other[0].entry(other[1])
            external = external or c.DW_AT_external in inherited
            if not function and type_ is None:
                type_ = self.types.reference(other[0], inherited)
        file = unit.string(unit.root.get(c.DW_AT_name))
        return Named(name, ref, type_, file, not external, c.DW_AT_declaration in values, function)

    @cached_property
    def _index(self) -> tuple[dict[str, list[Ref]], dict[str, list[Ref]]]:
        """Types by tag, variables and functions by name; units that are damaged are left out."""
        types: dict[str, list[Ref]] = defaultdict(list)
        objects: dict[str, list[Ref]] = defaultdict(list)
        for offset in self.types.units.offsets:
            try:
                unit = self.types.units.at(offset)
                for at, tag, name in top_level(unit, _WANTED):
                    if tag in _OBJECTS:
                        full = name or self.types.units.name(unit, at)
                        objects[full].append(offset + at)
                    elif name and not (tag in _TAGGED and self._declares(unit.header.offset + at)):
                        types[_PREFIXES.get(tag, "") + name].append(offset + at)
            except DwarfError:
                continue
        return types, objects

    def _declares(self, ref: Ref) -> bool:
        unit = self.types.units.containing(ref)
        return c.DW_AT_declaration in unit.entry(ref - unit.header.offset)[1]


_PREFIXES = {
    c.DW_TAG_structure_type: "struct ",
    c.DW_TAG_union_type: "union ",
    c.DW_TAG_class_type: "class ",
    c.DW_TAG_enumeration_type: "enum ",
}


def tag_of(found: Type) -> str:
    """Return what a type is called: `struct x`, or a plain name."""
    return f"{found.kind} {found.name}" if found.kind in (*COMPOUND, ENUM) else found.name

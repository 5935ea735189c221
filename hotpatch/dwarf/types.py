# SPDX-License-Identifier: GPL-2.0-or-later
"""Types as compilers describe them (DWARF 5, chapter 5): `Type`, and the `Types` of a file.

A type refers to others by `Ref`, the place of their entry, as types are circular; `Types.get` looks
one up. None stands for void.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf import forms
from hotpatch.dwarf.abbreviations import Value
from hotpatch.dwarf.cursor import Cursor, DwarfError
from hotpatch.dwarf.sections import DebugSections
from hotpatch.dwarf.tree import Entry, children
from hotpatch.dwarf.units import Unit, Units
from hotpatch.elf.file import ElfFile

BASE, POINTER, STRUCT, UNION, CLASS, ENUM, ARRAY, FUNCTION, TYPEDEF, UNSPECIFIED = (
    *("base", "pointer", "struct", "union", "class", "enum", "array", "function"),
    *("typedef", "unspecified"),
)
CONST, VOLATILE, RESTRICT, ATOMIC = "const", "volatile", "restrict", "_Atomic"
QUALIFIERS = (CONST, VOLATILE, RESTRICT, ATOMIC)
COMPOUND = (STRUCT, UNION, CLASS)

_KINDS = {
    c.DW_TAG_base_type: BASE,
    c.DW_TAG_pointer_type: POINTER,
    c.DW_TAG_reference_type: POINTER,
    c.DW_TAG_rvalue_reference_type: POINTER,
    c.DW_TAG_ptr_to_member_type: POINTER,
    c.DW_TAG_structure_type: STRUCT,
    c.DW_TAG_union_type: UNION,
    c.DW_TAG_class_type: CLASS,
    c.DW_TAG_enumeration_type: ENUM,
    c.DW_TAG_array_type: ARRAY,
    c.DW_TAG_subroutine_type: FUNCTION,
    c.DW_TAG_subprogram: FUNCTION,
    c.DW_TAG_typedef: TYPEDEF,
    c.DW_TAG_unspecified_type: UNSPECIFIED,
    c.DW_TAG_const_type: CONST,
    c.DW_TAG_volatile_type: VOLATILE,
    c.DW_TAG_restrict_type: RESTRICT,
    c.DW_TAG_atomic_type: ATOMIC,
}
_POINTER_SIZE = 8
_MOST_HOPS = 64

Ref = int
"""The offset of an entry in .debug_info."""


class Member(NamedTuple):
    """A member: `offset` and `bits` (of a bit-field, else None) in bits."""

    name: str
    """"" for one without: a struct or union whose members count as of the outer one."""
    type: Ref | None
    offset: int
    bits: int | None


class Type(NamedTuple):
    """One type. What a kind does not have is empty."""

    kind: str
    name: str
    size: int | None
    """In bytes; None where it is not known (a declaration), or follows from `target`."""
    target: Ref | None
    """What it points to, is another name of, is an array of; a function's result."""
    members: tuple[Member, ...] = ()
    enumerators: tuple[tuple[str, int], ...] = ()
    counts: tuple[int | None, ...] = ()
    """An array's dimensions; None for one that is left open."""
    parameters: tuple[Ref | None, ...] = ()
    variadic: bool = False
    prototyped: bool = True
    encoding: int = 0
    declaration: bool = False
    """It is only said that there is such a type."""


class Types:
    """The types of a file with debug information."""

    def __init__(self, elf: ElfFile) -> None:
        """Use `elf`, which has to stay open; nothing is read before it is asked for."""
        self.sections = DebugSections(elf)
        self.units = Units(self.sections)
        self._known: dict[Ref, Type] = {}

    @property
    def present(self) -> bool:
        """Tell whether there is debug information; raises DwarfError where it can't be read."""
        return self.sections.get(".debug_info") is not None

    def get(self, ref: Ref) -> Type:
        """Return the type whose entry is at `ref`; raises DwarfError."""
        found = self._known.get(ref)
        if found is None:
            unit = self.units.containing(ref)
            found = self._known[ref] = self._read(unit, ref - unit.header.offset)
        return found

    def stripped(self, ref: Ref | None) -> tuple[Ref | None, Type | None]:
        """Return a type without typedefs and qualifiers."""
        for _ in range(_MOST_HOPS):
            if ref is None:
                return None, None
            found = self.get(ref)
            if found.kind != TYPEDEF and found.kind not in QUALIFIERS:
                return ref, found
            ref = found.target
        raise DwarfError("a type that is another name of itself")

    def size(self, ref: Ref | None) -> int | None:
        """Return the size of a type in bytes, None where it is not known."""
        number = 1
        for _ in range(_MOST_HOPS):
            ref, found = self.stripped(ref)
            if found is None:
                return None
            if found.kind != ARRAY:
                return None if found.size is None else number * found.size
            for count in found.counts:
                number *= count or 0
            ref = found.target
        raise DwarfError("an array of itself")

    def reference(
        self, unit: Unit, values: dict[int, Value], name: int = c.DW_AT_type
    ) -> Ref | None:
        """Return what an attribute refers to, None without it (void)."""
        value = values.get(name)
        if value is None:
            return None
        if value[0] == c.DW_FORM_ref_sig8:
            return self._by_signature(value[1])
        found = self.units.refer(unit, value)
        if found is None:
            raise DwarfError("a type in another file (.gnu_debugaltlink)")
        return found[0].header.offset + found[1]

    def _read(self, unit: Unit, offset: int) -> Type:
        tag, values = unit.entry(offset)
        kind = _KINDS.get(tag)
        if kind is None:
            raise DwarfError(f"an entry with tag {tag:#x} is no type")
        elsewhere = self._elsewhere(unit, values, kind)
        if elsewhere is not None:
            return self.get(elsewhere)
        found = Type(
            kind,
            unit.string(values.get(c.DW_AT_name)),
            unit.number(values, c.DW_AT_byte_size),
            self.reference(unit, values),
            encoding=unit.number(values, c.DW_AT_encoding) or 0,
            declaration=c.DW_AT_declaration in values and kind != FUNCTION,
        )
        if kind in COMPOUND and not found.declaration:
            found = found._replace(members=tuple(self._members(unit, offset)))
        elif kind == ENUM:
            found = found._replace(enumerators=_enumerators(unit, offset))
        elif kind == ARRAY:
            found = found._replace(counts=_counts(unit, offset))
        elif kind == FUNCTION:
            found = self._function(found, unit, offset, values)
        elif kind == POINTER:
            found = found._replace(size=found.size or _POINTER_SIZE)
        return found

    def _elsewhere(self, unit: Unit, values: dict[int, Value], kind: str) -> Ref | None:
        """Return where an entry says that it is described."""
        if signature := values.get(c.DW_AT_signature):
            return self._by_signature(signature[1])
        if kind == FUNCTION:
            return self.reference(unit, values, c.DW_AT_abstract_origin)
        return None

    def _members(self, unit: Unit, offset: int) -> Iterator[Member]:
        for entry in children(unit, offset):
            if entry.tag in (c.DW_TAG_member, c.DW_TAG_inheritance):
                if c.DW_AT_external in entry.values or c.DW_AT_declaration in entry.values:
                    continue  # C++: a static one
                name = unit.string(entry.values.get(c.DW_AT_name))
                ref = self.reference(unit, entry.values)
                yield self._member(unit, entry, name, ref)

    def _member(self, unit: Unit, entry: Entry, name: str, ref: Ref | None) -> Member:
        values = entry.values
        bits = unit.number(values, c.DW_AT_bit_size)
        place = _location(values.get(c.DW_AT_data_member_location))
        at = unit.number(values, c.DW_AT_data_bit_offset)
        old = unit.number(values, c.DW_AT_bit_offset)
        if at is None and old is not None and bits is not None:
            # DWARF 3: counted from the highest bit of a storage unit (its section 5.5.6).
            storage = unit.number(values, c.DW_AT_byte_size) or self.size(ref) or 0
            at = 8 * storage - old - bits
        return Member(name, ref, 8 * place + (at or 0), bits)

    def _function(self, found: Type, unit: Unit, offset: int, values: dict[int, Value]) -> Type:
        parameters: list[Ref | None] = []
        variadic = False
        for entry in children(unit, offset):
            if entry.tag == c.DW_TAG_formal_parameter:
                parameters.append(self.reference(unit, entry.values))
            elif entry.tag == c.DW_TAG_unspecified_parameters:
                variadic = True
        return found._replace(
            parameters=tuple(parameters),
            variadic=variadic,
            prototyped=c.DW_AT_prototyped in values or bool(parameters),
        )

    def _by_signature(self, signature: object) -> Ref:
        found = self._signatures.get(signature)
        if found is None:
            raise DwarfError("a type in a unit that is not there")
        return found

    @cached_property
    def _signatures(self) -> dict[object, Ref]:
        """Where the types are that have units of their own (DWARF 5, 3.1.4)."""
        found: dict[object, Ref] = {}
        for offset in self.units.offsets:
            signature = self.units.type_signature(offset)
            if signature is not None:
                found[signature[0]] = offset + signature[1]
        return found


def _enumerators(unit: Unit, offset: int) -> tuple[tuple[str, int], ...]:
    return tuple(
        (
            unit.string(entry.values.get(c.DW_AT_name)),
            _constant(entry.values.get(c.DW_AT_const_value)),
        )
        for entry in children(unit, offset)
        if entry.tag == c.DW_TAG_enumerator
    )


def _constant(value: Value | None) -> int:
    if value is None or not isinstance(value[1], int):
        return 0
    return value[1]


def _counts(unit: Unit, offset: int) -> tuple[int | None, ...]:
    counts: list[int | None] = []
    for entry in children(unit, offset):
        if entry.tag == c.DW_TAG_subrange_type:
            count = unit.number(entry.values, c.DW_AT_count)
            bound = entry.values.get(c.DW_AT_upper_bound)
            # A bound in an exprloc, or another entry's, is that of a variable-length array.
            constant = bound is not None and bound[0] not in forms.UNIT_REFERENCES
            if count is None and constant and bound and isinstance(bound[1], int):
                count = bound[1] + 1 if bound[1] < (1 << 32) - 1 else 0
            counts.append(count)
    return tuple(counts)


def _location(value: Value | None) -> int:
    """Return a member's place: a number, or the one operation that compilers write (DWARF 2)."""
    if value is None:
        return 0
    if isinstance(value[1], int):
        return value[1]
    cursor = Cursor(value[1])
    return cursor.uleb128() if cursor.at < cursor.end and cursor.u1() == _PLUS_UCONST else 0


_PLUS_UCONST = c.DW_OP_plus_uconst

# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between a type of one file and a type of another: `Comparison`.

Two types are the same if code compiled with one works on objects of the other: sizes, offsets of
members, signedness, numbers of enumerators, parameters of functions. What a pointer points to is
compared by its name only, as it is compared by itself where it is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from hotpatch.dwarf.names import Names
from hotpatch.dwarf.spelling import parameters, plain, spell
from hotpatch.dwarf.types import (
    ARRAY,
    BASE,
    CLASS,
    COMPOUND,
    ENUM,
    FUNCTION,
    POINTER,
    STRUCT,
    UNSPECIFIED,
    Member,
    Ref,
    Type,
)

Refs = tuple[Ref | None, Ref | None]

_SIGNED = (0x05, 0x06, 0x0D)  # DW_ATE_signed, _signed_char, _signed_fixed (7.8)
_INTEGERS = (0x02, 0x05, 0x06, 0x07, 0x08, 0x10)  # boolean, (un)signed, their chars, UTF
_UNSIGNED_CHAR = 0x08
_MOST_DIFFERENCES = 20


class Sides(NamedTuple):
    """What the two files are called in messages."""

    old: str
    new: str


class Comparison:
    """Compares types of two files.

    `renamed` maps old tags (`struct a`) to what they may be called in the new file. Of those only
    the names are compared, but for the one that is `inside`. There, what the new file has as bytes
    (an array of unsigned char) is as good as anything of that size.
    """

    def __init__(
        self,
        old: Names,
        new: Names,
        renamed: Mapping[str, frozenset[str]],
        sides: Sides,
        inside: str = "",
    ) -> None:
        """Compare types of `old` to those of `new`."""
        self._inside = inside
        self._old = old
        self._new = new
        self._renamed = renamed
        self._sides = sides
        self._same: set[tuple[Ref, Ref]] = set()

    def types(self, old: Ref | None, new: Ref | None, what: str) -> list[str]:
        """Return how two types differ, as sentences about `what`; [] where they don't."""
        one_ref, one = self._old.types.stripped(old)
        other_ref, other = self._new.types.stripped(new)
        if one is None or other is None or one_ref is None or other_ref is None:
            same = one is None and other is None
            return [] if same else [self._types(what, old, new)]
        if UNSPECIFIED in (one.kind, other.kind):
            return []  # what assembler sources say of everything
        key = one_ref, other_ref
        if key in self._same:
            return []
        self._same.add(key)  # as long as nothing else is found
        found = self._compare(one, other, (old, new), what)
        if found:
            self._same.discard(key)
        return found[:_MOST_DIFFERENCES]

    def functions(self, old: Ref, new: Ref, what: str) -> list[str]:
        """Return how the signatures of two functions differ."""
        one, other = self._old.types.get(old), self._new.types.get(new)
        return self._functions(one, other, what)

    def _is_bytes(self, found: Type) -> bool:
        """Tell whether a type of the new file is written as bytes."""
        if found.kind != ARRAY:
            return False
        _, element = self._new.types.stripped(found.target)
        return element is not None and (element.size, element.encoding) == (1, _UNSIGNED_CHAR)

    def _compare(self, one: Type, other: Type, refs: Refs, what: str) -> list[str]:
        if self._inside and self._is_bytes(other):
            sizes = self._old.types.size(refs[0]), self._new.types.size(refs[1])
            return [] if sizes[0] == sizes[1] else [self._types(what, *refs)]
        for kinds, compare in (
            (COMPOUND, self._compounds),
            ((ENUM,), self._enums),
            ((ARRAY,), self._arrays),
            ((POINTER,), self._pointers),
            ((BASE, ENUM), self._numbers),
        ):
            if one.kind in kinds and other.kind in kinds:
                return compare(one, other, refs, what)
        if one.kind == other.kind == FUNCTION:
            return self._functions(one, other, what)
        return [self._types(what, *refs)]

    def _numbers(self, one: Type, other: Type, refs: Refs, what: str) -> list[str]:
        if one.size != other.size:
            sizes = f"{one.size} bytes in {self._sides.old}, {other.size} in {self._sides.new}"
            return [f"{self._types(what, *refs)} ({sizes})"]
        if ENUM in (one.kind, other.kind):
            return []
        integers = one.encoding in _INTEGERS and other.encoding in _INTEGERS
        signs = (one.encoding in _SIGNED) == (other.encoding in _SIGNED)
        if one.encoding != other.encoding and not (integers and signs):
            return [self._types(what, *refs)]
        return []

    def _enums(self, one: Type, other: Type, _: Refs, what: str) -> list[str]:
        found = []
        if one.size != other.size:
            found.append(self._sizes(what, one, other))
        values = dict(other.enumerators)
        for name, value in one.enumerators:
            if name in values and values[name] != value:
                found.append(
                    f"{what}: `{name}` is {value} in {self._sides.old}, {values[name]} in "
                    f"{self._sides.new}"
                )
        gone = [name for name, _ in one.enumerators if name not in values]
        names = {name for name, _ in one.enumerators}
        if gone and not names & set(values):
            found.append(f"{what}: has other enumerators in {self._sides.new}")
        return found

    def _arrays(self, one: Type, other: Type, refs: Refs, what: str) -> list[str]:
        if one.counts != other.counts and None not in (*one.counts, *other.counts):
            return [self._types(what, *refs)]
        return self.types(one.target, other.target, f"an element of {what}")

    def _pointers(self, one: Type, other: Type, refs: Refs, what: str) -> list[str]:
        first_ref, first = self._old.types.stripped(one.target)
        second_ref, second = self._new.types.stripped(other.target)
        if first is None or second is None:
            return []  # void * holds any pointer
        if first.kind in (*COMPOUND, ENUM) and second.kind in (*COMPOUND, ENUM):
            same = self._called_the_same(first, second)
            return [] if same else [self._types(what, *refs)]
        if first.kind == second.kind == POINTER:
            return self._pointers(first, second, refs, what)
        if first.kind == second.kind == FUNCTION:
            return self._functions(first, second, what)
        return self.types(first_ref, second_ref, f"what {what} points to")

    def _functions(self, one: Type, other: Type, what: str) -> list[str]:
        if not one.prototyped or not other.prototyped:
            return self.types(one.target, other.target, f"the result of {what}")
        if len(one.parameters) != len(other.parameters) or one.variadic != other.variadic:
            return [
                f"{what} takes {parameters(self._old.types, one)} in {self._sides.old}, "
                f"{parameters(self._new.types, other)} in {self._sides.new}"
            ]
        found = self.types(one.target, other.target, f"the result of {what}")
        for number, pair in enumerate(zip(one.parameters, other.parameters, strict=True), 1):
            found += self.types(*pair, f"parameter {number} of {what}")
        return found

    def _compounds(self, one: Type, other: Type, refs: Refs, what: str) -> list[str]:
        if not self._called_the_same(one, other):
            return [self._types(what, *refs)]
        tag = self._tag(one, refs[0], self._old)
        if tag in self._renamed and tag != self._inside:
            return []  # it is declared to be another one now
        one, other = self._complete(one, self._old), self._complete(other, self._new)
        if one.declaration or other.declaration:
            return []
        return self._layouts(one, other, what)

    def _layouts(self, one: Type, other: Type, what: str) -> list[str]:
        found = []
        names = {member.name for member in one.members if member.name}
        new_names = {member.name for member in other.members if member.name}
        by_place: dict[tuple[int, int | None], list[Member]] = defaultdict(list)
        for member in other.members:
            if member.name not in names:
                by_place[member.offset, member.bits].append(member)
        by_name = {member.name: member for member in other.members if member.name}
        matched = set()
        for member in one.members:
            twin = by_name.get(member.name)
            here = by_place[member.offset, member.bits]
            if twin is None and here:
                twin = here.pop(0)
            if twin is None and self._inside and member.bits is not None:
                continue  # among bytes
            if twin is None or (
                twin.name and twin.name != member.name and member.name in new_names
            ):
                found.append(
                    f"{what}: {_called(member)} at {_at(member)} in {self._sides.old} is not in "
                    f"{self._sides.new}"
                )
                continue
            matched.add(twin)
            found += self._members(member, twin, what)
        for member in other.members:
            below = self._new.types.stripped(member.type)[1] if self._inside else None
            if member not in matched and not (below and self._is_bytes(below)):
                found.append(
                    f"{what}: {_called(member)} at {_at(member)} in {self._sides.new} is not in "
                    f"{self._sides.old}"
                )
        if one.size != other.size:
            found.append(self._sizes(what, one, other))
        return found

    def _members(self, member: Member, twin: Member, what: str) -> list[str]:
        name = f"{what}: {_called(member)}"
        if (member.offset, member.bits) != (twin.offset, twin.bits):
            return [
                f"{name} is at {_at(member)} in {self._sides.old}, at {_at(twin)} in "
                f"{self._sides.new}"
            ]
        return self.types(member.type, twin.type, name)

    def _complete(self, found: Type, names: Names) -> Type:
        if not found.declaration:
            return found
        for ref in names.definitions(plain(found)):
            return names.types.get(ref)
        return found

    def _called_the_same(self, one: Type, other: Type) -> bool:
        if not one.name or not other.name:
            return True  # types without a tag are told apart by their members
        if plain(one) in self._renamed:
            return plain(other) in self._renamed[plain(one)]
        same_word = one.kind == other.kind or {one.kind, other.kind} == {STRUCT, CLASS}
        return one.name == other.name and same_word

    def _tag(self, found: Type, ref: Ref | None, names: Names) -> str:
        """Return the tag, or of a type without one the name that a typedef gives it."""
        if found.name or ref is None:
            return plain(found)
        return spell(names.types, ref)

    def _types(self, what: str, old: Ref | None, new: Ref | None) -> str:
        return (
            f"{what} is `{spell(self._old.types, old)}` in {self._sides.old}, "
            f"`{spell(self._new.types, new)}` in {self._sides.new}"
        )

    def _sizes(self, what: str, one: Type, other: Type) -> str:
        return (
            f"{what} has {one.size} bytes in {self._sides.old}, {other.size} in {self._sides.new}"
        )


def _called(member: Member) -> str:
    return f"member `{member.name}`" if member.name else "the member without a name"


def _at(member: Member) -> str:
    """Return a member's offset in bytes, and of a bit-field its bits there."""
    if member.bits is None:
        return str(member.offset // 8)
    return (
        f"{member.offset // 8} (bits {member.offset % 8} to {member.offset % 8 + member.bits - 1})"
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Types as self-contained C: every member at the offset that the compiler gave it.

Only what is copied or followed needs a type. Numbers are written as such, each pointer is a
`void *`, and what is copied as a whole (structs that did not change, unions) is bytes.
"""

from __future__ import annotations

from hotpatch.dwarf.types import ARRAY, BASE, ENUM, POINTER, Member, Ref, Type, Types

_FLOATS = {4: "float", 8: "double", 16: "long double"}
_SIGNED = (0x05, 0x06, 0x0D)
_FLOAT, _BOOLEAN = 0x04, 0x02  # DW_ATE_float, DW_ATE_boolean (DWARF 5, 7.8)


def c_name(tag: str) -> str:
    """Return a C identifier for a tag: `struct entry` is entry."""
    word = tag.rpartition(" ")[2]
    return "".join(char if char.isalnum() else "_" for char in word)


def scalar(types: Types, ref: Ref | None) -> str | None:
    """Return the C type of a number or a pointer, None for anything else."""
    _, found = types.stripped(ref)
    if found is None or found.size is None:
        return None
    if found.kind == POINTER:
        return "void *"
    if found.kind == ENUM or (found.kind == BASE and found.encoding != _FLOAT):
        if found.encoding == _BOOLEAN and found.size == 1:
            return "_Bool"
        sign = "" if found.encoding in _SIGNED else "u"
        return f"{sign}int{8 * found.size}_t" if found.size in (1, 2, 4, 8) else None
    return _FLOATS.get(found.size) if found.kind == BASE else None


def flat_array(types: Types, ref: Ref | None) -> tuple[Ref | None, int]:
    """Return the innermost element of an array and how many of these there are; 1 for others."""
    count = 1
    _, found = types.stripped(ref)
    while found is not None and found.kind == ARRAY:
        for dimension in found.counts:
            count *= dimension or 0
        ref = found.target
        _, found = types.stripped(ref)
    return ref, count


def definition(types: Types, found: Type, name: str, embedded: dict[str, str]) -> str:
    """Return the definition of `struct name` with the layout of a type.

    `embedded` names the C struct of those members by value whose own members matter.
    """
    lines = [f"struct {name} {{"]
    at = 0
    for number, member in enumerate(found.members):
        offset = member.offset // 8
        if member.bits is None:
            lines += _pad(offset - at, number)
            lines.append(f"    {_declared(types, member, number, embedded)};")
            at = offset + (types.size(member.type) or 0)
            continue
        first = _unit_start(found.members, number)
        if number == first:
            start, end = _bits(found.members, number)
            lines += _pad(start - at, number)
            lines.append(f"    unsigned char bits_{number}[{end - start}]; /* bit-fields */")
            at = end
    size = found.size or 0
    lines += _pad(size - at, len(found.members))
    lines.append("} __attribute__((packed));")
    lines.append(f'_Static_assert(sizeof(struct {name}) == {size}, "{name}");')
    return "\n".join(lines)


def _unit_start(members: tuple[Member, ...], number: int) -> int:
    """Return the first of the bit-fields that lie next to each other with this one."""
    while number and members[number - 1].bits is not None:
        number -= 1
    return number


def _bits(members: tuple[Member, ...], first: int) -> tuple[int, int]:
    """Return the bytes that neighbouring bit-fields lie in, from the `first` on."""
    run = []
    for member in members[first:]:
        if member.bits is None:
            break
        run.append(member)
    start = min(member.offset for member in run) // 8
    end = max(member.offset + (member.bits or 0) for member in run)
    return start, (end + 7) // 8


def _pad(size: int, number: int) -> list[str]:
    return [f"    unsigned char pad_{number}[{size}];"] if size > 0 else []


def _declared(types: Types, member: Member, number: int, embedded: dict[str, str]) -> str:
    name = member.name or f"unnamed_{number}"
    inner, count = flat_array(types, member.type)
    counts = f"[{count}]" if inner != member.type else ""
    plain = scalar(types, inner)
    if plain:
        return f"{plain.rstrip(' *')} {'*' if '*' in plain else ''}{name}{counts}"
    if name in embedded:
        return f"struct {embedded[name]} {name}{counts}"
    return f"unsigned char {name}[{types.size(member.type) or 0}]"

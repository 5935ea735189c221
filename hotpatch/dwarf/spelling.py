# SPDX-License-Identifier: GPL-2.0-or-later
"""Types as C writes them: `spell`."""

from __future__ import annotations

from hotpatch.dwarf.types import (
    ARRAY,
    COMPOUND,
    ENUM,
    FUNCTION,
    POINTER,
    QUALIFIERS,
    TYPEDEF,
    Ref,
    Type,
    Types,
)

_DEEPEST = 32


def spell(types: Types, ref: Ref | None, name: str = "") -> str:
    """Return the declaration of `name` with a type, or the type alone where `name` is empty."""
    return _spell(types, ref, name, 0)


def _spell(types: Types, ref: Ref | None, inner: str, depth: int) -> str:
    if ref is None or depth > _DEEPEST:
        return _with("void", inner)
    found = types.get(ref)
    if found.kind == POINTER:
        return _pointer(types, found, inner, depth)
    if found.kind in (ARRAY, FUNCTION):
        counts = "".join(f"[{'' if count is None else count}]" for count in found.counts)
        behind = counts if found.kind == ARRAY else parameters(types, found)
        return _spell(types, found.target, inner + behind, depth + 1)
    if found.kind in QUALIFIERS:
        return _qualified(types, found, inner, depth)
    return _with(plain(found), inner)


def _qualified(types: Types, found: Type, inner: str, depth: int) -> str:
    below = None if found.target is None else types.get(found.target)
    if below is not None and below.kind == POINTER:
        return _spell(types, found.target, _with(found.kind, inner), depth + 1)
    return f"{found.kind} {_spell(types, found.target, inner, depth + 1)}"


def _pointer(types: Types, found: Type, inner: str, depth: int) -> str:
    below = None if found.target is None else types.get(found.target)
    text = f"*{inner}"
    if below is not None and below.kind in (ARRAY, FUNCTION):
        text = f"({text})"
    return _spell(types, found.target, text, depth + 1)


def parameters(types: Types, function: Type) -> str:
    """Return a function's parameters in their parentheses."""
    texts = [spell(types, parameter) for parameter in function.parameters]
    if function.variadic:
        texts.append("...")
    if not texts and function.prototyped:
        texts = ["void"]
    return f"({', '.join(texts)})"


def plain(found: Type) -> str:
    """Return the name of a type that has one of its own."""
    if found.kind in (*COMPOUND, ENUM):
        return f"{found.kind} {found.name or '{...}'}"
    if found.kind == TYPEDEF:
        return found.name
    return found.name or found.kind


def _with(type_: str, inner: str) -> str:
    return f"{type_} {inner}" if inner else type_

# SPDX-License-Identifier: GPL-2.0-or-later
"""The relocation types of x86-64 that occur in a shared object, and their arithmetic.

Numbers, names, fields and calculations are those of table 4.9 of the System V psABI, AMD64
supplement, in its letters: A the addend, B the address the image is loaded at less its
virtual address, P the place that is relocated, S the value of the symbol, Z its size. A
value that does not fit its field is a `RelocationOverflow`, never a truncated address.

The types that are not plain arithmetic (a copy, an indirect function, thread-local storage)
are numbered here and done by the linker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

R_X86_64_NONE = 0
R_X86_64_64 = 1
R_X86_64_PC32 = 2
R_X86_64_GOT32 = 3
R_X86_64_PLT32 = 4
R_X86_64_COPY = 5
R_X86_64_GLOB_DAT = 6
R_X86_64_JUMP_SLOT = 7
R_X86_64_RELATIVE = 8
R_X86_64_GOTPCREL = 9
R_X86_64_32 = 10
R_X86_64_32S = 11
R_X86_64_16 = 12
R_X86_64_PC16 = 13
R_X86_64_8 = 14
R_X86_64_PC8 = 15
R_X86_64_DTPMOD64 = 16
R_X86_64_DTPOFF64 = 17
R_X86_64_TPOFF64 = 18
R_X86_64_TLSGD = 19
R_X86_64_TLSLD = 20
R_X86_64_DTPOFF32 = 21
R_X86_64_GOTTPOFF = 22
R_X86_64_TPOFF32 = 23
R_X86_64_PC64 = 24
R_X86_64_GOTOFF64 = 25
R_X86_64_GOTPC32 = 26
R_X86_64_SIZE32 = 32
R_X86_64_SIZE64 = 33
R_X86_64_GOTPC32_TLSDESC = 34
R_X86_64_TLSDESC_CALL = 35
R_X86_64_TLSDESC = 36
R_X86_64_IRELATIVE = 37
R_X86_64_RELATIVE64 = 38
R_X86_64_GOTPCRELX = 41
R_X86_64_REX_GOTPCRELX = 42

TLS_TYPES = frozenset((R_X86_64_DTPMOD64, R_X86_64_DTPOFF64, R_X86_64_TPOFF64, R_X86_64_TLSDESC))
FUNCTION_POINTER_TYPES = frozenset((R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT))

GOT_TYPES = frozenset((R_X86_64_GOTPCREL, R_X86_64_GOTPCRELX, R_X86_64_REX_GOTPCRELX))
"""The distance of a slot with the address of the symbol."""
DISTANCES = GOT_TYPES | {
    R_X86_64_PC32,
    R_X86_64_PLT32,
    R_X86_64_TLSGD,
    R_X86_64_TLSLD,
    R_X86_64_GOTTPOFF,
    R_X86_64_GOTPC32,
    R_X86_64_GOTPC32_TLSDESC,
}
"""Fields of instructions that hold a distance from behind the instruction."""

_EIGHT_BYTES = (R_X86_64_64, R_X86_64_PC64, R_X86_64_GOTOFF64, R_X86_64_DTPOFF64, R_X86_64_TPOFF64)
_OTHER_SIZES = {R_X86_64_NONE: 0, R_X86_64_TLSDESC_CALL: 0}

_NAMES = {
    number: name[len("R_X86_64_") :]
    for name, number in sorted(globals().items())
    if name.startswith("R_X86_64_")
}


class RelocationOverflow(ValueError):
    """A value does not fit the field of its relocation."""


class Operands(NamedTuple):
    """What a calculation works on, in the psABI's letters; addresses of the target."""

    A: int = 0
    B: int = 0
    P: int = 0
    S: int = 0
    Z: int = 0


class Rule(NamedTuple):
    """How one type is done: the bytes of its field, whether it is signed, what goes in."""

    size: int
    signed: bool
    calculation: Callable[[Operands], int]


def _symbol_and_addend(o: Operands) -> int:
    return o.S + o.A


def _symbol(o: Operands) -> int:
    return o.S


def _base_and_addend(o: Operands) -> int:
    return o.B + o.A


def _distance(o: Operands) -> int:
    return o.S + o.A - o.P


def _size_and_addend(o: Operands) -> int:
    return o.Z + o.A


RULES = {
    R_X86_64_64: Rule(8, False, _symbol_and_addend),
    R_X86_64_PC32: Rule(4, True, _distance),
    R_X86_64_PLT32: Rule(4, True, _distance),
    R_X86_64_GLOB_DAT: Rule(8, False, _symbol),
    R_X86_64_JUMP_SLOT: Rule(8, False, _symbol),
    R_X86_64_RELATIVE: Rule(8, False, _base_and_addend),
    R_X86_64_32: Rule(4, False, _symbol_and_addend),
    R_X86_64_32S: Rule(4, True, _symbol_and_addend),
    R_X86_64_16: Rule(2, False, _symbol_and_addend),
    R_X86_64_PC16: Rule(2, True, _distance),
    R_X86_64_8: Rule(1, False, _symbol_and_addend),
    R_X86_64_PC8: Rule(1, True, _distance),
    R_X86_64_PC64: Rule(8, True, _distance),
    R_X86_64_SIZE32: Rule(4, False, _size_and_addend),
    R_X86_64_SIZE64: Rule(8, False, _size_and_addend),
}
"""The types that are arithmetic alone, and so can be applied by `relocated`."""


class Entry(NamedTuple):
    """A relocation of an object file: `offset` in its section, `symbol` as a row of .symtab."""

    offset: int
    type: int
    symbol: int
    addend: int


def field_size(number: int) -> int:
    """Return the bytes of the field that a relocation of an object file is about."""
    if number in RULES:
        return RULES[number].size
    return _OTHER_SIZES.get(number, 8 if number in _EIGHT_BYTES else 4)


def relocation_name(number: int) -> str:
    """Return the psABI's name of a relocation type, or its number where it has none here."""
    return f"R_X86_64_{_NAMES[number]}" if number in _NAMES else f"relocation type {number}"


def relocated(number: int, operands: Operands) -> bytes:
    """Return the bytes that a relocation of type `number` stores in its field.

    A field of 64 bits holds addresses modulo 2**64, as the psABI has it; a smaller one must
    hold the value itself.

    Raises `RelocationOverflow` where it does not, and `KeyError` for a type outside `RULES`.
    """
    rule = RULES[number]
    value = rule.calculation(operands)
    if rule.size == 8:
        return (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little")
    try:
        return value.to_bytes(rule.size, "little", signed=rule.signed)
    except OverflowError:
        bits = 8 * rule.size
        name = relocation_name(number)
        raise RelocationOverflow(f"{name}: {value:#x} does not fit {bits} bits") from None

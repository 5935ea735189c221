# SPDX-License-Identifier: GPL-2.0-or-later
"""Applying rows of call frame information to the registers and the stack of a thread.

Nearly every row says the same: the CFA is a register plus an offset, and the return address and
some registers are saved right below it. Such a row is made a `Step` that takes one read of
the stack; `apply` is for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from hotpatch.arch import frames as arch
from hotpatch.dwarf import cfi
from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cfi import Cfa, Row, Rule
from hotpatch.dwarf.cursor import ADDRESS_MASK, DwarfError
from hotpatch.dwarf.expression import evaluate
from hotpatch.errors import Gone

Read = Callable[[int, int], bytes]
Values = list[int | None]
"""What registers hold, by DWARF number; None is lost. The last one is the return address."""

_WORD = Struct("<Q")
_WIDEST = 64  # words below the CFA that are read at once
_COUNT = len(arch.DWARF_REGISTERS)
_SAVED_AT_RBP = Rule(cfi.EXPRESSION, 0, bytes((c.DW_OP_breg0 + arch.RBP, 0)))


class Step(NamedTuple):
    """A row made ready.

    Where `row` is None: CFA = `register` + `offset`, and `unpack` makes words of the `size` bytes
    at CFA + `low`, of which `saved` has (register, index). Otherwise apply `row`.
    """

    register: int
    offset: int
    low: int
    size: int
    unpack: Callable[[bytes], tuple[int, ...]]
    saved: tuple[tuple[int, int], ...]
    row: Row | None
    outermost: bool
    """The function has no caller (DWARF 5, 6.4.4: its return address is undefined)."""


def prepare(row: Row) -> Step:
    """Make a row ready."""
    offsets = {r: rule.value for r, rule in row.rules.items() if rule.kind == cfi.OFFSET}
    low, high = min(offsets.values(), default=0), max(offsets.values(), default=0)
    plain = (
        row.cfa.expression is None
        and row.cfa.register < _COUNT
        and len(offsets) == len(row.rules)
        and arch.RETURN_ADDRESS in offsets
        and row.return_address == max(offsets) == arch.RETURN_ADDRESS
        and arch.RSP not in offsets
        and not any(value % _WORD.size for value in offsets.values())
        and high - low < _WIDEST * _WORD.size
        and not row.signal
    )
    if not plain:
        return Step(0, 0, 0, 0, _no_words, (), row, _is_outermost(row))
    words = Struct(f"<{(high - low) // _WORD.size + 1}Q")
    saved = tuple((register, (value - low) // _WORD.size) for register, value in offsets.items())
    cfa = row.cfa
    return Step(cfa.register, cfa.offset, low, words.size, words.unpack, saved, None, False)


def apply(row: Row, values: Values, read: Read) -> int:
    """Replace a frame's registers by those of its caller; return the CFA.

    Raises DwarfError, struct.error for a short read, and what `read` raises.
    """
    old = tuple(values)
    cfa = values[arch.RSP] = _cfa(row.cfa, old, read)
    if not row.signal:
        for register in arch.LOST_IN_CALLS:
            values[register] = None
    back = row.rules.get(row.return_address)
    values[arch.RETURN_ADDRESS] = (
        _value(back, row.return_address, cfa, old, read) if back is not None else None
    )
    stale = _is_stale(row, old, values[arch.RETURN_ADDRESS], read)
    for register, rule in row.rules.items():
        if register < arch.RETURN_ADDRESS:
            unknown = stale and rule.kind == cfi.EXPRESSION
            values[register] = None if unknown else _value_or_lost(rule, register, cfa, old, read)
    if values[arch.RETURN_ADDRESS] is None and not _is_outermost(row):
        raise DwarfError("its return address is lost")
    return cfa


def _is_stale(row: Row, old: Sequence[int | None], return_address: int | None, read: Read) -> bool:
    """Say whether a row refers to a frame pointer that is the caller's already.

    In a function that realigns its stack, gcc (12, for one) saves registers relative to rbp and
    leaves these rules in force behind the `pop rbp` of the epilogue. Followed there, they
    would lead past a frame. Such a function has a copy of its return address above the saved rbp.
    """
    if row.rules.get(arch.RBP) != _SAVED_AT_RBP or row.cfa.expression is not None:
        return False
    rbp = old[arch.RBP]
    try:
        return rbp is None or _word(read, rbp + _WORD.size) != return_address
    except Gone:
        raise
    except (OSError, StructError):
        return True


def lost(register: int) -> DwarfError:
    """Return the error for a register whose value is needed but not known."""
    name = arch.DWARF_REGISTERS[register] if register < _COUNT else f"register {register}"
    return DwarfError(f"{name} is lost")


def signal_row() -> Row:
    """Return what glibc says of its __restore_rt, for C libraries that say nothing of theirs."""
    registers = dict(arch.SIGNAL_FRAME)
    cfa = cfi.at_register(arch.RSP, registers[arch.RSP], deref=True)
    rules = {
        register: Rule(cfi.EXPRESSION, 0, cfi.at_register(arch.RSP, offset))
        for register, offset in registers.items()
    }
    return Row(0, Cfa(0, 0, cfa), rules, arch.RETURN_ADDRESS, True)


def _no_words(_: bytes) -> tuple[int, ...]:
    return ()


def _is_outermost(row: Row) -> bool:
    rule = row.rules.get(row.return_address)
    return rule is not None and rule.kind == cfi.UNDEFINED


def _cfa(rule: Cfa, old: Sequence[int | None], read: Read) -> int:
    if rule.expression is not None:
        return evaluate(rule.expression, old, read)
    base = old[rule.register] if rule.register < _COUNT else None
    if base is None:
        raise lost(rule.register)
    return (base + rule.offset) & ADDRESS_MASK


def _value_or_lost(
    rule: Rule, register: int, cfa: int, old: Sequence[int | None], read: Read
) -> int | None:
    """Return the same, None where it can't be known: what nobody asks for is no loss."""
    try:
        return _value(rule, register, cfa, old, read)
    except Gone:
        raise
    except (DwarfError, OSError, StructError):
        return None


def _value(
    rule: Rule, register: int, cfa: int, old: Sequence[int | None], read: Read
) -> int | None:
    """Return what a register held in the caller (DWARF 5, 6.4.1)."""
    if rule.kind == cfi.OFFSET:
        return _word(read, cfa + rule.value)
    if rule.kind == cfi.EXPRESSION:
        return _word(read, evaluate(rule.expression, old, read, cfa))
    if rule.kind == cfi.VAL_EXPRESSION:
        return evaluate(rule.expression, old, read, cfa)
    if rule.kind == cfi.VAL_OFFSET:
        return (cfa + rule.value) & ADDRESS_MASK
    if rule.kind == cfi.REGISTER:
        return old[rule.value] if rule.value < _COUNT else None
    return old[register] if rule.kind == cfi.SAME_VALUE else None


def _word(read: Read, address: int) -> int:
    word: int = _WORD.unpack(read(address & ADDRESS_MASK, _WORD.size))[0]
    return word

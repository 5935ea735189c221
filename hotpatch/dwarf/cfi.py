# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information: how the caller's registers are found again at one place in the code.

An FDE is a program that makes a table (DWARF 5, 6.4): for each address, the rule for the
canonical frame address (CFA) and one for each register. `row_at` runs it as far as one address
and returns the `Row` that is in force there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import Cursor, DwarfError, Read
from hotpatch.dwarf.entries import Cie, Fde

UNDEFINED = "undefined"
SAME_VALUE = "same_value"
OFFSET = "offset"
VAL_OFFSET = "val_offset"
REGISTER = "register"
EXPRESSION = "expression"
VAL_EXPRESSION = "val_expression"

_DEEPEST = 64  # remembered states


class Rule(NamedTuple):
    """A register rule (6.4.1), with the offset from the CFA, or the register's number."""

    kind: str
    value: int = 0
    expression: bytes = b""


class Cfa(NamedTuple):
    """The rule for the CFA: register plus offset, or an expression."""

    register: int
    offset: int
    expression: bytes | None = None


class Row(NamedTuple):
    """The rules at some address, from `start` of the code on.

    A register without a rule is unspecified: the psABI says what a call does to it.
    """

    start: int
    cfa: Cfa
    rules: Mapping[int, Rule]
    return_address: int
    signal: bool


def row_at(fde: Fde, pc: int, read: Read) -> Row:
    """Return the row of an FDE that holds at `pc`; raises DwarfError.

    `read` is for pointers in DW_CFA_set_loc that are indirect.
    """
    table = _Table(fde.cie, fde.start, pc, read)
    table.run(fde.cie.instructions, fde.cie.address)
    table.begin()
    table.run(fde.instructions, fde.address)
    if table.cfa is None:
        raise DwarfError(f"no CFA is defined for {pc:#x}")
    return Row(table.start, table.cfa, table.rules, fde.cie.return_address, fde.cie.signal)


def at_register(register: int, offset: int, deref: bool = False) -> bytes:
    """Return the expression for the address `register` + `offset`, or for the word there."""
    expression = bytes((c.DW_OP_breg0 + register, offset & 0x7F | 0x80, offset >> 7))
    return expression + bytes((c.DW_OP_deref,)) if deref else expression


class _Table:
    """The state of the machine that runs call frame instructions (6.4.2)."""

    def __init__(self, cie: Cie, start: int, pc: int, read: Read) -> None:
        self.cie = cie
        self.start = start
        self.pc = pc
        self.read = read
        self.cfa: Cfa | None = None
        self.rules: dict[int, Rule] = {}
        self.initial: dict[int, Rule] | None = None
        self.remembered: list[tuple[Cfa | None, dict[int, Rule]]] = []

    def begin(self) -> None:
        """Take the rules as they are now, those of the CIE, as the initial ones."""
        self.initial = dict(self.rules)

    def run(self, instructions: bytes, address: int) -> None:
        """Run a program as far as `pc`."""
        cursor = Cursor(instructions, address)
        while cursor.at < cursor.end:
            byte = cursor.u1()
            primary, low = byte & 0xC0, byte & 0x3F
            if primary == c.DW_CFA_offset:
                self._saved(low, cursor.uleb128())
            elif primary == c.DW_CFA_restore:
                self._restore(low)
            else:
                location = self._location(byte, primary, low, cursor)
                if location is None:
                    self._other(byte, cursor)
                elif location > self.pc:
                    return
                else:
                    self.start = location

    def _location(self, byte: int, primary: int, low: int, cursor: Cursor) -> int | None:
        """Return where an instruction advances to, None for one that doesn't."""
        if primary == c.DW_CFA_advance_loc:
            return self.start + low * self.cie.code_alignment
        if byte == c.DW_CFA_set_loc:
            return cursor.pointer(self.cie.pointer_encoding, None, self.read)
        advance = _ADVANCES.get(byte)
        return None if advance is None else self.start + advance(cursor) * self.cie.code_alignment

    def _other(self, byte: int, cursor: Cursor) -> None:
        instruction = _INSTRUCTIONS.get(byte)
        if instruction is None:
            raise DwarfError(f"a call frame instruction {byte:#x}")
        instruction(self, cursor)

    def _saved(self, register: int, factored: int) -> None:
        self.rules[register] = Rule(OFFSET, factored * self.cie.data_alignment)

    def _restore(self, register: int) -> None:
        if self.initial is None:
            raise DwarfError("a CIE restores a register")
        if register in self.initial:
            self.rules[register] = self.initial[register]
        else:
            self.rules.pop(register, None)

    def _offset_extended(self, cursor: Cursor) -> None:
        self._saved(cursor.uleb128(), cursor.uleb128())

    def _offset_extended_sf(self, cursor: Cursor) -> None:
        self._saved(cursor.uleb128(), cursor.sleb128())

    def _negative_offset_extended(self, cursor: Cursor) -> None:
        self._saved(cursor.uleb128(), -cursor.uleb128())

    def _restore_extended(self, cursor: Cursor) -> None:
        self._restore(cursor.uleb128())

    def _undefined(self, cursor: Cursor) -> None:
        self.rules[cursor.uleb128()] = Rule(UNDEFINED)

    def _same_value(self, cursor: Cursor) -> None:
        self.rules[cursor.uleb128()] = Rule(SAME_VALUE)

    def _register(self, cursor: Cursor) -> None:
        register = cursor.uleb128()
        self.rules[register] = Rule(REGISTER, cursor.uleb128())

    def _val_offset(self, cursor: Cursor) -> None:
        register = cursor.uleb128()
        self.rules[register] = Rule(VAL_OFFSET, cursor.uleb128() * self.cie.data_alignment)

    def _val_offset_sf(self, cursor: Cursor) -> None:
        register = cursor.uleb128()
        self.rules[register] = Rule(VAL_OFFSET, cursor.sleb128() * self.cie.data_alignment)

    def _expression(self, cursor: Cursor) -> None:
        register = cursor.uleb128()
        self.rules[register] = Rule(EXPRESSION, 0, cursor.block())

    def _val_expression(self, cursor: Cursor) -> None:
        register = cursor.uleb128()
        self.rules[register] = Rule(VAL_EXPRESSION, 0, cursor.block())

    def _remember_state(self, _: Cursor) -> None:
        if len(self.remembered) >= _DEEPEST:
            raise DwarfError(f"more than {_DEEPEST} states are remembered")
        self.remembered.append((self.cfa, dict(self.rules)))

    def _restore_state(self, _: Cursor) -> None:
        if not self.remembered:
            raise DwarfError("a state is restored that was not remembered")
        self.cfa, self.rules = self.remembered.pop()

    def _def_cfa(self, cursor: Cursor) -> None:
        self.cfa = Cfa(cursor.uleb128(), cursor.uleb128())

    def _def_cfa_sf(self, cursor: Cursor) -> None:
        self.cfa = Cfa(cursor.uleb128(), cursor.sleb128() * self.cie.data_alignment)

    def _def_cfa_register(self, cursor: Cursor) -> None:
        self.cfa = Cfa(cursor.uleb128(), self._cfa_by_register().offset)

    def _def_cfa_offset(self, cursor: Cursor) -> None:
        self.cfa = Cfa(self._cfa_by_register().register, cursor.uleb128())

    def _def_cfa_offset_sf(self, cursor: Cursor) -> None:
        offset = cursor.sleb128() * self.cie.data_alignment
        self.cfa = Cfa(self._cfa_by_register().register, offset)

    def _def_cfa_expression(self, cursor: Cursor) -> None:
        self.cfa = Cfa(0, 0, cursor.block())

    def _cfa_by_register(self) -> Cfa:
        if self.cfa is None or self.cfa.expression is not None:
            raise DwarfError("half of the CFA is defined where there is no other half")
        return self.cfa

    def _args_size(self, cursor: Cursor) -> None:
        """Pass what only the landing of an exception needs: the CFA does not depend on it."""
        cursor.uleb128()

    def _nop(self, _: Cursor) -> None:
        pass


_ADVANCES: dict[int, Callable[[Cursor], int]] = {
    c.DW_CFA_advance_loc1: Cursor.u1,
    c.DW_CFA_advance_loc2: Cursor.u2,
    c.DW_CFA_advance_loc4: Cursor.u4,
    c.DW_CFA_MIPS_advance_loc8: Cursor.u8,
}

_INSTRUCTIONS: dict[int, Callable[[_Table, Cursor], None]] = {
    c.DW_CFA_nop: _Table._nop,
    c.DW_CFA_offset_extended: _Table._offset_extended,
    c.DW_CFA_restore_extended: _Table._restore_extended,
    c.DW_CFA_undefined: _Table._undefined,
    c.DW_CFA_same_value: _Table._same_value,
    c.DW_CFA_register: _Table._register,
    c.DW_CFA_remember_state: _Table._remember_state,
    c.DW_CFA_restore_state: _Table._restore_state,
    c.DW_CFA_def_cfa: _Table._def_cfa,
    c.DW_CFA_def_cfa_register: _Table._def_cfa_register,
    c.DW_CFA_def_cfa_offset: _Table._def_cfa_offset,
    c.DW_CFA_def_cfa_expression: _Table._def_cfa_expression,
    c.DW_CFA_expression: _Table._expression,
    c.DW_CFA_offset_extended_sf: _Table._offset_extended_sf,
    c.DW_CFA_def_cfa_sf: _Table._def_cfa_sf,
    c.DW_CFA_def_cfa_offset_sf: _Table._def_cfa_offset_sf,
    c.DW_CFA_val_offset: _Table._val_offset,
    c.DW_CFA_val_offset_sf: _Table._val_offset_sf,
    c.DW_CFA_val_expression: _Table._val_expression,
    c.DW_CFA_GNU_args_size: _Table._args_size,
    c.DW_CFA_GNU_negative_offset_extended: _Table._negative_offset_extended,
}

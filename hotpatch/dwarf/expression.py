# SPDX-License-Identifier: GPL-2.0-or-later
"""Evaluating DWARF expressions, as far as call frame information uses them (DWARF 5, 2.5.1).

All values are 64-bit words. The operators that compare, divide or shift arithmetically take
them as signed (2.5.1.4).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import ADDRESS_MASK, Cursor, DwarfError, Read, read_exactly

_MOST_OPERATIONS = 1000  # a loop in an expression is damage, or worse
_DEEPEST = 64

Values = Sequence[int | None]
"""What the registers hold, by DWARF number; None is undefined."""


def evaluate(expression: bytes, values: Values, read: Read, initial: int | None = None) -> int:
    """Return the value of an expression, `initial` being on its stack at first.

    Raises DwarfError, and what `read` (of the process's memory) raises.
    """
    cursor = Cursor(expression)
    stack: list[int] = [] if initial is None else [initial]
    try:
        for _ in range(_MOST_OPERATIONS):
            if cursor.at == cursor.end:
                return stack[-1]
            _step(cursor, stack, values, read)
    except IndexError:
        raise DwarfError("an expression takes more than its stack has") from None
    raise DwarfError(f"an expression of more than {_MOST_OPERATIONS} operations")


def _step(cursor: Cursor, stack: list[int], values: Values, read: Read) -> None:
    operation = cursor.u1()
    if c.DW_OP_breg0 <= operation <= c.DW_OP_breg31:
        _push(stack, _register(values, operation - c.DW_OP_breg0) + cursor.sleb128())
    elif c.DW_OP_lit0 <= operation <= c.DW_OP_lit31:
        _push(stack, operation - c.DW_OP_lit0)
    elif operation in _BINARY:
        right, left = stack.pop(), stack.pop()
        _push(stack, _BINARY[operation](left, right))
    elif operation in _CONSTANTS:
        _push(stack, _CONSTANTS[operation](cursor))
    elif operation in _UNARY:
        _push(stack, _UNARY[operation](stack.pop()))
    elif operation in _STACK:
        _STACK[operation](cursor, stack)
    elif operation == c.DW_OP_deref:
        _push(stack, int.from_bytes(read_exactly(read, stack.pop(), 8), "little"))
    elif operation == c.DW_OP_deref_size:
        _push(stack, _load(read, stack.pop(), cursor.u1()))
    elif operation == c.DW_OP_plus_uconst:
        _push(stack, stack.pop() + cursor.uleb128())
    elif operation == c.DW_OP_bregx:
        _push(stack, _register(values, cursor.uleb128()) + cursor.sleb128())
    elif operation in (c.DW_OP_skip, c.DW_OP_bra):
        _branch(cursor, operation == c.DW_OP_skip or stack.pop() != 0)
    elif operation != c.DW_OP_nop:
        raise DwarfError(f"an expression with operation {operation:#x}")


def _push(stack: list[int], value: int) -> None:
    if len(stack) >= _DEEPEST:
        raise DwarfError("an expression's stack is too deep")
    stack.append(value & ADDRESS_MASK)


def _register(values: Values, number: int) -> int:
    value = values[number] if number < len(values) else None
    if value is None:
        raise DwarfError(f"an expression needs register {number}, which is lost")
    return value


def _load(read: Read, address: int, size: int) -> int:
    if not 0 < size <= 8:
        raise DwarfError(f"an expression reads {size} bytes")
    return int.from_bytes(read_exactly(read, address, size), "little")


def _branch(cursor: Cursor, taken: bool) -> None:
    distance = cursor.s2()
    target = cursor.at + distance
    if not 0 <= target <= cursor.end:
        raise DwarfError("an expression leaves itself")
    if taken:
        cursor.at = target


def _pick(cursor: Cursor, stack: list[int]) -> None:
    _push(stack, _from_top(stack, cursor.u1()))


def _from_top(stack: list[int], depth: int) -> int:
    if depth >= len(stack):
        raise IndexError
    return stack[-1 - depth]


def _swap(_: Cursor, stack: list[int]) -> None:
    stack[-1], stack[-2] = stack[-2], stack[-1]


def _rotate(_: Cursor, stack: list[int]) -> None:
    """The first becomes the third, the second the first, the third the second (2.5.1.3)."""
    stack[-1], stack[-2], stack[-3] = stack[-2], stack[-3], stack[-1]


def _drop(_: Cursor, stack: list[int]) -> None:
    stack.pop()


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _divide(left: int, right: int) -> int:
    left, right = _signed(left), _signed(right)
    if not right:
        raise DwarfError("an expression divides by zero")
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _modulo(left: int, right: int) -> int:
    if not right:
        raise DwarfError("an expression divides by zero")
    return left % right


def _shift_left(left: int, right: int) -> int:
    return left << right if right < 64 else 0


def _shift_right_arithmetically(left: int, right: int) -> int:
    return _signed(left) >> min(right, 63)


def _comparison(compare: Callable[[int, int], bool]) -> Callable[[int, int], int]:
    return lambda left, right: int(compare(_signed(left), _signed(right)))


_BINARY: dict[int, Callable[[int, int], int]] = {
    c.DW_OP_and: operator.and_,
    c.DW_OP_div: _divide,
    c.DW_OP_minus: operator.sub,
    c.DW_OP_mod: _modulo,
    c.DW_OP_mul: operator.mul,
    c.DW_OP_or: operator.or_,
    c.DW_OP_plus: operator.add,
    c.DW_OP_shl: _shift_left,
    c.DW_OP_shr: lambda left, right: left >> min(right, 64),
    c.DW_OP_shra: _shift_right_arithmetically,
    c.DW_OP_xor: operator.xor,
    c.DW_OP_eq: _comparison(operator.eq),
    c.DW_OP_ge: _comparison(operator.ge),
    c.DW_OP_gt: _comparison(operator.gt),
    c.DW_OP_le: _comparison(operator.le),
    c.DW_OP_lt: _comparison(operator.lt),
    c.DW_OP_ne: _comparison(operator.ne),
}

_UNARY: dict[int, Callable[[int], int]] = {
    c.DW_OP_abs: lambda value: abs(_signed(value)),
    c.DW_OP_neg: operator.neg,
    c.DW_OP_not: operator.invert,
}

_CONSTANTS: dict[int, Callable[[Cursor], int]] = {
    c.DW_OP_addr: Cursor.u8,
    c.DW_OP_const1u: Cursor.u1,
    c.DW_OP_const1s: Cursor.s1,
    c.DW_OP_const2u: Cursor.u2,
    c.DW_OP_const2s: Cursor.s2,
    c.DW_OP_const4u: Cursor.u4,
    c.DW_OP_const4s: Cursor.s4,
    c.DW_OP_const8u: Cursor.u8,
    c.DW_OP_const8s: Cursor.s8,
    c.DW_OP_constu: Cursor.uleb128,
    c.DW_OP_consts: Cursor.sleb128,
}

_STACK: dict[int, Callable[[Cursor, list[int]], None]] = {
    c.DW_OP_dup: lambda _, stack: _push(stack, stack[-1]),
    c.DW_OP_over: lambda _, stack: _push(stack, _from_top(stack, 1)),
    c.DW_OP_pick: _pick,
    c.DW_OP_swap: _swap,
    c.DW_OP_rot: _rotate,
    c.DW_OP_drop: _drop,
}

# SPDX-License-Identifier: GPL-2.0-or-later
"""DWARF expressions: every operation (2.5.1) that makes sense without debug information."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.expression import evaluate
from tests.dwarf.builder import sleb128, uleb128

MINUS_1 = (1 << 64) - 1
VALUES = [0x1000 * number for number in range(16)] + [None]
MEMORY = bytes(range(0x11, 0x31))


def read(address: int, size: int) -> bytes:
    if not 0x7000 <= address <= 0x7000 + len(MEMORY) - size:
        raise OSError(14, "not mapped")
    return MEMORY[address - 0x7000 :][:size]


def lit(value: int) -> bytes:
    return b"\x11" + sleb128(value)


def run(expression: bytes, initial: int | None = None) -> int:
    return evaluate(expression, VALUES, read, initial)


@pytest.mark.parametrize(
    "expression, value",
    [
        pytest.param(b"\x03" + struct.pack("<Q", 0x123456789A), 0x123456789A, id="addr"),
        pytest.param(b"\x08\xfe", 0xFE, id="const1u"),
        pytest.param(b"\x09\xfe", MINUS_1 - 1, id="const1s"),
        pytest.param(b"\x0a\xfe\xff", 0xFFFE, id="const2u"),
        pytest.param(b"\x0b\xfe\xff", MINUS_1 - 1, id="const2s"),
        pytest.param(b"\x0c\xfe\xff\xff\xff", 0xFFFFFFFE, id="const4u"),
        pytest.param(b"\x0d\xfe\xff\xff\xff", MINUS_1 - 1, id="const4s"),
        pytest.param(b"\x0e" + b"\xff" * 8, MINUS_1, id="const8u"),
        pytest.param(b"\x0f" + b"\xff" * 8, MINUS_1, id="const8s"),
        pytest.param(b"\x10" + uleb128(300), 300, id="constu"),
        pytest.param(b"\x11" + sleb128(-300), MINUS_1 - 299, id="consts"),
        pytest.param(b"\x30", 0, id="lit0"),
        pytest.param(b"\x4f", 31, id="lit31"),
        pytest.param(b"\x77\x08", 0x7008, id="breg7"),
        pytest.param(b"\x77\x78", 0x6FF8, id="breg7 negative"),
        pytest.param(b"\x92\x07\x08", 0x7008, id="bregx"),
        pytest.param(b"\x77\x08\x06", 0x201F1E1D1C1B1A19, id="deref"),
        pytest.param(b"\x77\x08\x94\x02", 0x1A19, id="deref_size"),
        pytest.param(b"\x31\x23" + uleb128(1000), 1001, id="plus_uconst"),
        pytest.param(b"\x31\x32\x12\x1e", 4, id="dup"),
        pytest.param(b"\x31\x32\x13", 1, id="drop"),
        pytest.param(b"\x31\x32\x14", 1, id="over"),
        pytest.param(b"\x31\x32\x33\x15\x02", 1, id="pick"),
        pytest.param(b"\x31\x32\x16", 1, id="swap"),
        pytest.param(b"\x31\x32\x33\x17", 2, id="rot: second on top"),
        pytest.param(b"\x31\x32\x33\x17\x13", 1, id="rot: third is second"),
        pytest.param(b"\x31\x32\x33\x17\x13\x13", 3, id="rot: top is third"),
        pytest.param(lit(-5) + b"\x19", 5, id="abs"),
        pytest.param(lit(12) + lit(10) + b"\x1a", 8, id="and"),
        pytest.param(lit(-7) + lit(2) + b"\x1b", MINUS_1 - 2, id="div is signed"),
        pytest.param(lit(3) + lit(5) + b"\x1c", MINUS_1 - 1, id="minus"),
        pytest.param(lit(17) + lit(5) + b"\x1d", 2, id="mod"),
        pytest.param(lit(-3) + lit(5) + b"\x1e", MINUS_1 - 14, id="mul"),
        pytest.param(lit(3) + b"\x1f", MINUS_1 - 2, id="neg"),
        pytest.param(lit(0) + b"\x20", MINUS_1, id="not"),
        pytest.param(lit(12) + lit(10) + b"\x21", 14, id="or"),
        pytest.param(lit(-1) + lit(2) + b"\x22", 1, id="plus wraps"),
        pytest.param(lit(1) + lit(63) + b"\x24", 1 << 63, id="shl"),
        pytest.param(lit(1) + lit(64) + b"\x24", 0, id="shl by 64"),
        pytest.param(lit(-1) + lit(60) + b"\x25", 15, id="shr"),
        pytest.param(lit(-16) + lit(2) + b"\x26", MINUS_1 - 3, id="shra"),
        pytest.param(lit(12) + lit(10) + b"\x27", 6, id="xor"),
        pytest.param(b"\x31\x2f\x01\x00\x32\x33", 3, id="skip"),
        pytest.param(b"\x35\x31\x1c\x12\x28\xfa\xff", 0, id="bra counts down"),
        pytest.param(b"\x31\x96", 1, id="nop"),
    ],
)
def test_operation(expression: bytes, value: int) -> None:
    assert run(expression) == value


@pytest.mark.parametrize(
    "operation, less, equal, greater",
    [(0x29, 0, 1, 0), (0x2A, 0, 1, 1), (0x2B, 0, 0, 1), (0x2C, 1, 1, 0), (0x2D, 1, 0, 0),
     (0x2E, 1, 0, 1)],
    ids=["eq", "ge", "gt", "le", "lt", "ne"],
)  # fmt: skip
def test_comparisons_are_signed(operation: int, less: int, equal: int, greater: int) -> None:
    for left, expected in ((-2, less), (-1, equal), (1, greater)):
        assert run(lit(left) + lit(-1) + bytes((operation,))) == expected


@pytest.mark.parametrize("rip, depth", [(0x120A, 8), (0x120B, 16), (0x120F, 16), (0x1210, 8)])
def test_the_expression_of_every_plt(rip: int, depth: int) -> None:
    """Its entries have 16 bytes; behind the push in the first 11, rsp is 8 lower."""
    expression = b"\x77\x08\x80\x00\x3f\x1a\x3b\x2a\x33\x24\x22"
    values = [*VALUES[:16], rip]
    assert evaluate(expression, values, read) == 0x7000 + depth


def test_the_initial_value_is_on_the_stack() -> None:
    assert run(b"\x23\x08", initial=0x500) == 0x508
    assert run(b"", initial=0x500) == 0x500


@pytest.mark.parametrize(
    "expression, reason",
    [
        (b"", "stack"),
        (b"\x22", "stack"),
        (b"\x31\x14", "stack"),
        (b"\x31\x15\x01", "stack"),
        (b"\x31\x16", "stack"),
        (b"\x31\x32\x17", "stack"),
        (b"\x08", "early"),
        (b"\x31\x30\x1b", "zero"),
        (b"\x31\x30\x1d", "zero"),
        (b"\x80\x00", "register 16"),
        (b"\x92\x40\x00", "register 64"),
        (b"\x31\x94\x09", "9 bytes"),
        (b"\x31\x94\x00", "0 bytes"),
        (b"\x2f\xfd\xff", "more than"),
        (b"\x2f\x01\x00", "leaves"),
        (b"\x2f\xfc\xff", "leaves"),
        (b"\x31" * 100, "too deep"),
        (b"\x9f", "0x9f"),
        (b"\x50", "0x50"),
    ],
)
def test_what_can_not_be_evaluated_is_refused(expression: bytes, reason: str) -> None:
    with pytest.raises(DwarfError, match=reason):
        run(expression)


def test_memory_that_is_not_there_is_the_readers_error() -> None:
    with pytest.raises(OSError, match="not mapped"):
        run(b"\x31\x06")


@given(st.binary(max_size=200))
def test_any_bytes_end(expression: bytes) -> None:
    with contextlib.suppress(DwarfError, OSError):
        assert 0 <= run(expression, 0x7000) <= MINUS_1

# SPDX-License-Identifier: GPL-2.0-or-later
"""Moved instructions mean what they meant at their own address."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hotpatch.arch.disassembler import decode, rip_operand
from hotpatch.arch.moving import Unmovable, encode_move, plan_move
from hotpatch.redirect.displace import displace, displaced_size, plan_displaced
from tests.redirect.meaning import meaning, moved_meaning

HERE, THERE = 0x40001000, 0x50002340

MOVABLE = {
    "prefixes that mean nothing on a loop": "3e f2 e3 00",
    "push rbp": "55",
    "endbr64": "f3 0f 1e fa",
    "lea rax, [rip + 0x1234]": "48 8d 05 34 12 00 00",
    "cmp dword ptr [rip - 0x105], 0x11": "83 3d fb fe ff ff 11",
    "mov dword ptr [rip + 1], 0x01": "c7 05 01 00 00 00 01 00 00 00",
    "vmovups ymm0, [rip + 0x11]": "c5 fc 10 05 11 00 00 00",
    "vmovups zmm0, [rip + 0x40]": "62 f1 7c 48 10 05 40 00 00 00",
    "jmp short": "eb 7f",
    "jmp short back": "eb 80",
    "jmp": "e9 00 10 00 00",
    "bnd jmp": "f2 e9 00 10 00 00",
    "jb short": "72 30",
    "jg short, branch hint": "2e 7f 10",
    "jne": "0f 85 00 20 00 00",
    "loop": "e2 10",
    "loope": "e1 f0",
    "loopne": "e0 20",
    "jrcxz": "e3 10",
    "jecxz": "67 e3 10",
    "jmp rax": "ff e0",
    "notrack jmp rax": "3e ff e0",
    "jmp [rip + 8]": "ff 25 08 00 00 00",
    "jmp [rdi*8 + table]": "ff 24 fd 00 10 00 00",
    "call": "e8 00 10 00 00",
    "call next": "e8 00 00 00 00",
    "call rax": "ff d0",
    "call r11": "41 ff d3",
    "notrack call rax": "3e ff d0",
    "call [rip + 0x10]": "ff 15 10 00 00 00",
    "call [rax + 0x10]": "ff 50 10",
    "call [r12 - 0x20]": "41 ff 54 24 e0",
    "call fs:[0x10]": "64 ff 14 25 10 00 00 00",
    "ret": "c3",
    "repz ret": "f3 c3",
    "ud2": "0f 0b",
    "syscall": "0f 05",
}

UNMOVABLE = {
    "xbegin": ("c7 f8 00 10 00 00", "transaction"),
    "call through rsp": ("ff 54 24 08", "stack pointer"),
    "call rsp": ("ff d4", "stack pointer"),
    "eip-relative": ("67 48 8d 05 00 00 00 00", "eip"),
    "operand size prefix on jmp": ("66 e9 00 00 00 00", "prefix"),
    "operand size prefix behind another": ("2e 66 e9 00 00 00 00", "prefix"),
    "operand size prefix on call": ("66 ff d0", "prefix"),
    "far call": ("ff 1d 10 00 00 00", "far call"),
    "breakpoint": ("cc", "breakpoint"),
}


@pytest.mark.parametrize("text", MOVABLE.values(), ids=MOVABLE.keys())
def test_an_instruction_means_the_same_at_another_address(text: str) -> None:
    code = bytes.fromhex(text)
    (instruction,) = decode(code, HERE)
    moves = (
        plan_displaced([instruction], HERE, HERE + 5)
        if len(code) >= 5
        else (plan_move(instruction),)
    )
    moved = displace(moves, THERE, None)
    assert len(moved) == displaced_size(moves, None)
    assert moved_meaning(moved, THERE, {})[:1] == meaning(code, HERE)


@pytest.mark.parametrize(("text", "why"), UNMOVABLE.values(), ids=UNMOVABLE.keys())
def test_an_instruction_that_cannot_be_moved_is_refused(text: str, why: str) -> None:
    (instruction,) = decode(bytes.fromhex(text), HERE)
    with pytest.raises(Unmovable, match=why):
        plan_move(instruction)


def test_a_refusal_shows_the_instruction() -> None:
    instructions = decode(bytes.fromhex("55 c7 f8 00 10 00 00"), HERE)
    with pytest.raises(Unmovable, match="0x40001001: c7 f8 00 10 00 00  xbegin 0x40002007"):
        plan_displaced(instructions, HERE, HERE + 5)


def test_a_call_that_would_return_under_the_jump_is_refused() -> None:
    instructions = decode(bytes.fromhex("ff d0 48 89 c3"), HERE)
    with pytest.raises(Unmovable, match=r"call rax returns into the bytes"):
        plan_displaced(instructions, HERE, HERE + 5)


def test_a_function_that_reads_its_own_first_bytes_is_refused_unless_it_takes_their_address() -> (
    None
):
    reads, takes = bytes.fromhex("48 8b 05 f9 ff ff ff"), bytes.fromhex("48 8d 05 f9 ff ff ff")
    with pytest.raises(Unmovable, match="refers to the bytes"):
        plan_displaced(decode(reads, HERE), HERE, HERE + 5)
    (move,) = plan_displaced(decode(takes, HERE), HERE, HERE + 5)
    assert moved_meaning(displace([move], THERE, None), THERE, {}) == meaning(takes, HERE)


def test_the_last_instruction_is_followed_by_the_way_back() -> None:
    instructions = decode(bytes.fromhex("55 48 89 e5 89 7d fc"), HERE)
    moves = plan_displaced(instructions, HERE, HERE + 5)
    moved = displace(moves, THERE, HERE + 7)
    assert meaning(moved, THERE)[-1] == ("jmp", hex(HERE + 7))


def test_a_displaced_branch_to_the_entry_stays_in_the_displaced_code() -> None:
    instructions = decode(bytes.fromhex("ff cf 75 fc c3"), HERE)  # 1: dec edi; jne 1b; ret
    moves = plan_displaced(instructions, HERE, HERE + 5)
    moved = displace(moves, THERE, None, range(HERE, HERE + 1))
    assert meaning(moved, THERE) == [("dec", "edi"), ("jne", hex(THERE)), ("ret", "")]


def test_what_is_out_of_reach_overflows() -> None:
    for text in ("48 8d 05 34 12 00 00", "e9 00 00 00 00", "75 00", "e8 00 00 00 00", "e2 00"):
        (instruction,) = decode(bytes.fromhex(text), HERE)
        with pytest.raises(OverflowError):
            displace([plan_move(instruction)], HERE + (1 << 31) + 0x10000, None)


@settings(max_examples=700, deadline=None)
@given(st.binary(min_size=15, max_size=15), st.integers(-(1 << 30), 1 << 30))
@example(bytes.fromhex("c4e2fd0015") + bytes(10), 0x1000)
def test_any_instruction_is_refused_or_means_the_same(data: bytes, distance: int) -> None:
    instructions = decode(data, HERE, 1)
    assume(instructions)
    _check_moved(instructions[0].data, HERE + distance)


# ModRM 05, 0d, ... are the operands relative to rip; half of all opcodes take one.
RIP_FORM = st.tuples(
    st.sampled_from(["", "66", "f2", "f3", "48", "4c", "66 4f", "0f", "0f 38", "66 0f 3a", "c5 fc",
                     "c4 e2 7d", "62 f1 7c 48", "62 f3 7d 48", "f0", "64", "f0 48 0f"]),
    st.integers(0, 255),
    st.integers(0, 7),
    st.binary(min_size=12, max_size=12),
).map(lambda t: bytes.fromhex(t[0]) + bytes([t[1], t[2] << 3 | 5]) + t[3])  # fmt: skip


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(RIP_FORM, st.integers(-(1 << 20), 1 << 20))
def test_any_operand_relative_to_rip_is_corrected(data: bytes, distance: int) -> None:
    instructions = decode(data, HERE, 1)
    assume(instructions and "rip" in instructions[0].operands)
    _check_moved(instructions[0].data, HERE + distance)


def _check_moved(code: bytes, there: int) -> None:
    (instruction,) = decode(code, HERE)
    try:
        move = plan_move(instruction)
        moved = displace([move], there, None)
    except (Unmovable, OverflowError):
        # Displacements of up to 2 GB don't reach from everywhere; all else is movable.
        in_reach = rip_operand(instruction) is None if "eip" not in instruction.operands else False
        assert not in_reach or instruction.flow != "plain"
        return
    assert moved_meaning(moved, there, {})[:1] == meaning(code, HERE)


def test_the_size_of_a_move_is_that_of_its_code() -> None:
    for text in MOVABLE.values():
        (instruction,) = decode(bytes.fromhex(text), HERE)
        move = plan_move(instruction)
        assert len(encode_move(move, THERE, instruction.target, THERE + 64)) == move.size

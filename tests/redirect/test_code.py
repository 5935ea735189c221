# SPDX-License-Identifier: GPL-2.0-or-later
"""The facts about machine code, checked against an assembler and a disassembler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import capstone
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpatch.arch import code as machine
from hotpatch.arch.assembler import assemble
from hotpatch.arch.branches import branches_to
from hotpatch.arch.disassembler import decode
from hotpatch.arch.prologue import undo
from hotpatch.elf.file import ElfFile

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"


def capstone_decode(data: bytes, address: int) -> list[capstone.CsInsn]:
    return list(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(data, address))


@given(st.integers(0x1000, 1 << 46), st.integers(-(1 << 31) + 5, (1 << 31) - 16))
def test_a_jump_leads_to_its_target(address: int, distance: int) -> None:
    target = max(address + distance, 0)
    (jump,) = capstone_decode(machine.jump(address, target), address)
    assert (jump.size, jump.mnemonic, int(jump.op_str, 16)) == (5, "jmp", target)


@given(st.integers(0x1000, 1 << 46), st.integers(-126, 129))
def test_a_short_jump_leads_to_its_target(address: int, distance: int) -> None:
    (jump,) = capstone_decode(machine.short_jump(address, address + distance), address)
    assert (jump.size, int(jump.op_str, 16)) == (2, address + distance)


def test_jumps_that_do_not_reach_overflow() -> None:
    for distance in (-127, 130):
        with pytest.raises(OverflowError):
            machine.short_jump(0x1000, 0x1000 + distance)
    for distance in (-(1 << 31) + 4, (1 << 31) + 5):
        with pytest.raises(OverflowError):
            machine.jump(1 << 40, (1 << 40) + distance)


@pytest.mark.parametrize("condition", range(16))
def test_a_conditional_jump_keeps_its_condition(condition: int) -> None:
    (short,) = capstone_decode(bytes((0x70 | condition, 0)), 0x1000)
    (near,) = capstone_decode(machine.conditional_jump(0x70 | condition, 0x1000, 0x2000), 0x1000)
    assert (near.mnemonic, near.op_str) == (short.mnemonic, "0x2000")


def test_prefixes_that_a_jump_ignores() -> None:
    for prefix in filter(machine.ignored_by_jump, range(256)):
        (jump,) = capstone_decode(bytes((prefix,)) + machine.jump(0x1001, 0x5000), 0x1000)
        assert (jump.size, jump.op_str) == (6, "0x5000")
    assert not machine.ignored_by_jump(0x66)


@pytest.mark.parametrize("size", range(1, 64))
def test_the_padding_of_gnu_as_is_recognised(tmp_path: Path, size: int) -> None:
    if shutil.which("as") is None:
        pytest.skip("needs binutils")
    (tmp_path / "p.s").write_text(f".p2align 6\n.skip {64 - size}, 0xf4\n.p2align 6\n")
    subprocess.run(["as", "p.s", "-o", "p.o"], cwd=tmp_path, check=True)
    subprocess.run(["objcopy", "-O", "binary", "p.o", "p"], cwd=tmp_path, check=True)
    padding = (tmp_path / "p").read_bytes()[64 - size :]
    assert len(padding) == size and machine.is_padding(padding)
    ends = [i.address + i.size for i in capstone_decode(padding, 0)]
    assert machine.nop_boundaries(padding) == ends


NOP_PARTS = [bytes.fromhex(part) for part in
             ("66", "2e", "90", "0f1f", "440000", "00", "84", "80", "40", "c3", "55")]  # fmt: skip


@given(st.lists(st.sampled_from(NOP_PARTS), max_size=12).map(b"".join))
def test_what_is_taken_for_nops_is_nops(data: bytes) -> None:
    ends = machine.nop_boundaries(data)
    decoded = capstone_decode(data, 0)[: len(ends)]
    assert [i.address + i.size for i in decoded] == ends
    assert {i.mnemonic for i in decoded} <= {"nop"}


@pytest.mark.parametrize(
    "data", ["c3", "90 c3", "55", "f3 90", "0f 1f", "66", "0f 1e fa", "48 89 e5", "90 f4"]
)
def test_code_is_no_padding(data: str) -> None:
    assert not machine.is_padding(bytes.fromhex(data))


UNDONE = {
    "push rbp": "pop rbp",
    "push rbp; mov rbp, rsp": "pop rbp",
    "push r12; push rbx; sub rsp, 0x18": "lea rsp, [rsp + 0x18]; pop rbx; pop r12",
    "push rbp; mov rbp, rsp; push 0; sub rsp, 0x1000":
        "lea rsp, [rsp + 0x1000]; lea rsp, [rsp + 8]; pop rbp",
    "nop; .byte 0xf3, 0x0f, 0x1e, 0xfa": "",
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), UNDONE.items())
def test_a_prologue_is_undone(text: str, expected: str) -> None:
    code = undo(decode(assemble(text, 0).code, 0))
    assert code is not None
    shown = [f"{i.mnemonic} {i.op_str}" for i in capstone_decode(code, 0)]
    assert "; ".join(shown) == expected


@pytest.mark.parametrize(
    "text",
    ["mov rbp, rsp", "push rsp", "mov eax, edi", "sub rsp, rax", "push ax", "pop rbx",
     "push rbx; mov rbp, rsp", "push qword ptr [rip + 8]", "sub rsp, -8", "and rsp, -16"],
)  # fmt: skip
def test_what_cannot_be_undone(text: str) -> None:
    assert undo(decode(assemble(text, 0).code, 0)) is None


def test_no_branch_is_overlooked() -> None:
    """Compare with decoding everything, for windows all over real functions."""
    try:
        elf = ElfFile.open(LIBC)
    except OSError:
        pytest.skip("needs a glibc to read")
    functions = [s for s in elf.symbols.functions() if 64 < s.size < 3000][:300:5]
    seen = 0
    for symbol in functions:
        code = elf.read(symbol.value, symbol.size)
        branches = [
            (i.address, int(i.op_str, 16))
            for i in capstone_decode(code, symbol.value)
            if (i.mnemonic[0] == "j" or i.mnemonic in ("call", "loop")) and i.op_str[:2] == "0x"
        ]
        for start in range(symbol.value, symbol.value + symbol.size, 37):
            window = range(start, start + 5)
            expected = [at for at, target in branches if target in window]
            found = branches_to(code, symbol.value, window, start)
            assert [i.address for i in found] == expected
            seen += len(expected)
    assert seen > 20

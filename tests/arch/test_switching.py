# SPDX-License-Identifier: GPL-2.0-or-later
"""Which instructions are taken for a change of stacks, and where calls lead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotpatch.arch import switching
from hotpatch.arch.assembler import assemble

AT = 0x10000
LOADS = (
    "mov rsp, [rsi]",
    "mov rsp, [rdx + 0xa0]",
    "mov rsp, [r12]",
    "mov rsp, [r13 + 8]",
    "mov rsp, [rdi + rsi*8]",
    "mov rsp, [rip + 0x100]",
    "mov rsp, rsi",
    "mov rsp, r8",
    "mov rsp, r13",
    "xchg rsp, [rdi]",
    "xchg rsp, r8",
)
OTHERS = (
    "mov rsp, rbp",
    "mov rsp, [rbp - 8]",
    "mov rsp, [rsp + 8]",
    "mov rsi, rsp",
    "mov r12, [rsi]",
    "mov r12, rsi",
    "mov esp, [rsi]",
    "mov [rdi], rsp",
    "lea rsp, [rbp - 8]",
    "xchg r12, rbp",
    "xchg rax, rbx",
    "leave",
)


@pytest.mark.parametrize("instruction", LOADS)
def test_loads(instruction: str) -> None:
    code = assemble(f"nop\n{instruction}\nnop", AT).code
    assert list(switching.stack_pointer_loads(code)) == [1]


@pytest.mark.parametrize("instruction", OTHERS)
def test_others(instruction: str) -> None:
    code = assemble(f"nop\n{instruction}\nnop", AT).code
    assert not switching.loads_stack_pointer(code)


@pytest.mark.parametrize("register", ["rax", "rbx", "r8", "r12", "r13", "r15"])
def test_a_compiler_takes_back_what_it_has_kept(register: str) -> None:
    kept = assemble(f"mov {register}, rsp\nsub rsp, 16\nmov rsp, {register}", AT).code
    load = assemble(f"mov rsp, {register}", AT).code
    assert switching.restores_stack_pointer(kept, load)
    assert not switching.restores_stack_pointer(load, load)


@given(st.integers(0, (1 << 47) - 1), st.integers(0, (1 << 64) - 1))
def test_mangling(pointer: int, guard: int) -> None:
    assert switching.demangle(switching.mangle(pointer, guard), guard) == pointer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call 0x12345", (0x12345, False)),
        ("call [rip + 0x100]", (AT + 6 + 0x100, True)),
        ("call rax", None),
        ("call [rax + 8]", None),
    ],
)
def test_where_calls_lead(text: str, expected: tuple[int, bool] | None) -> None:
    code = assemble(text, AT).code
    assert switching.called_before(code[-7:], AT + len(code)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jmp [rip + 0x100]", (AT + 6 + 0x100, True)),
        (".byte 0xf3, 0x0f, 0x1e, 0xfa, 0xf2\njmp [rip + 0x100]", (AT + 11 + 0x100, True)),
        ("push rbx\njmp [rip + 0x100]", None),
    ],
)
def test_where_stubs_lead(text: str, expected: tuple[int, bool] | None) -> None:
    assert switching.jumps_at_once(assemble(text, AT).code.ljust(32, b"\x90"), AT) == expected

# SPDX-License-Identifier: GPL-2.0-or-later
"""Where calls return to, judged by the bytes before, against a disassembler."""

from __future__ import annotations

import subprocess

import pytest

from hotpatch.arch.assembler import assemble
from hotpatch.arch.disassembler import CALL, decode
from hotpatch.arch.frames import ends_with_call, stack_growth
from hotpatch.elf.constants import SHF_EXECINSTR
from hotpatch.elf.file import ElfFile


@pytest.mark.parametrize(
    "text",
    ["call 0x12345678", "call rax", "call r12", "call [rax]", "call [r12]", "call [r13]",
     "call [rsp]", "call [rbp]", "call [rax + 8]", "call [rsp + 8]", "call [rax + 4096]",
     "call [rsp + 4096]", "call [rax + rbx * 8]", "call [r13 + rbx * 8]", "call [rbx * 8 + 64]",
     "call [r12 + r13 * 4 + 127]", "call [r12 + r13 * 4 + 128]", "call [rip + 64]",
     "call qword ptr fs:[64]"],
)  # fmt: skip
def test_forms_of_calls(text: str) -> None:
    code = assemble(text.replace("call [", "call qword ptr ["), 0x1000).code
    (instruction,) = decode(code, 0x1000)
    assert instruction.flow == CALL
    assert ends_with_call(bytes(7) + code)
    assert ends_with_call(b"\x90" * 7 + code)


@pytest.mark.parametrize("text", ["nop", "ret", "jmp rax", "push rax", "mov rax, rbx", "syscall"])
def test_what_is_no_call(text: str) -> None:
    assert not ends_with_call(b"\x90" * 7 + assemble(text, 0x1000).code)


def test_every_call_of_the_c_library() -> None:
    command = ["gcc", "-print-file-name=libc.so.6"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    elf, calls, others, taken = ElfFile.open(path), 0, 0, 0
    for section in elf.sections:
        if section.flags & SHF_EXECINSTR and section.name == ".text":
            code = elf.section_data(section)[: 1 << 19]
            for instruction in decode(code, section.addr):
                end = instruction.end - section.addr
                called = ends_with_call(code[max(0, end - 7) : end])
                if instruction.flow == CALL:
                    calls += 1
                    assert called, instruction
                else:
                    others += 1
                    taken += called
    assert calls > 1000
    assert taken < others / 100


def test_what_moves_the_stack_pointer() -> None:
    grown = {"push rax": 8, "pop rax": -8, "mov rax, rbx": 0, "lea rax, [rsp + 8]": 0,
             "lea rsp, [rsp - 128]": 128, "lea rsp, [rsp + 128]": -128}  # fmt: skip
    for text, growth in grown.items():
        (instruction,) = decode(assemble(text, 0x1000).code, 0x1000)
        assert stack_growth(instruction) == growth, text

# SPDX-License-Identifier: GPL-2.0-or-later
"""The assembler gives sources the meaning they have in GNU as, and templates that of assembling."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpatch.arch import assembler
from hotpatch.arch.assembler import AssemblyError, assemble, source, template

GATES = [
    ("gate.S", ("switch", "new", "wait")),
    ("gate_kept.S", ("switch", "old", "wait")),
    ("gate_far.S", ("switch", "old", "wait")),
    ("gate_wait.S", ("door", "deadline", "switch", "new", "old")),
    ("gate_far_jump.S", ("new",)),
    ("displaced_call.S", ("return_slot",)),
    ("displaced_loop.S", ("target",)),
]

STATEMENTS = [
    "cmp dword ptr [rip + place], 0",
    "mov dword ptr [rip + place], 0x5eedc000",
    "mov rax, qword ptr [rip + place]; lea rcx, [rip + place]",
    "jmp place; jne place; call place",
    "lea rsp, [rsp - 128]; mov edi, 231; add rsp, 10",
    "nop; here: jmp there; mov rax, qword ptr [rip + there]; there: .quad here",
    ".quad place, 10, here; here: .long 16",
    "/* not; this: */ xor eax, eax",
]


@pytest.mark.parametrize("text", STATEMENTS)
def test_text_means_what_gnu_as_makes_of_it(text: str, tmp_path: Path) -> None:
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("needs binutils")
    address, place = 0x40000000, 0x41234568
    gnu = f".intel_syntax noprefix\n.globl _start\n_start:\n{text}\n"
    (tmp_path / "t.s").write_text(gnu)
    for command in (
        ["as", "-mrelax-relocations=no", "-o", "t.o", "t.s"],
        ["ld", f"-Ttext={address:#x}", f"--defsym=place={place:#x}", "-o", "t", "t.o"],
        ["objcopy", "-O", "binary", "-j", ".text", "t", "t.bin"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert assemble(text, address, place=place).code == (tmp_path / "t.bin").read_bytes()


def test_labels_are_absolute() -> None:
    labels = assemble("one: nop; two: jmp one; .balign 8, 0x90; three:", 0x1000).labels
    assert labels == {"one": 0x1000, "two": 0x1001, "three": 0x1008}


@pytest.mark.parametrize("text", ["fooo bar", "jmp nowhere", "cmp dword ptr [rip + far], 0"])
def test_what_cannot_be_assembled_is_an_error(text: str) -> None:
    with pytest.raises(AssemblyError):
        assemble(text, 0x1000, far=1 << 40)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_filled_template_is_the_assembled_source(data: st.DataObject) -> None:
    name, symbols = data.draw(st.sampled_from(GATES))
    address = data.draw(st.integers(1 << 31, 1 << 46))
    wide = [("gate_far.S", "switch"), ("gate_far_jump.S", "new"), ("gate_wait.S", "switch")]
    values = {}
    for symbol in symbols:
        distance = st.integers(-(1 << 30), 1 << 30).filter(lambda d: abs(d) > 1000)
        values[symbol] = address + data.draw(distance)
        if (name, symbol) in wide:
            values[symbol] = data.draw(st.integers(1 << 32, (1 << 47) - 1))
    filled = template(name, *symbols).fill(address, **values)
    assert filled == assemble(name, address, **values).code


def test_a_template_says_when_a_symbol_is_out_of_reach() -> None:
    gate = template("gate.S", "switch", "new", "wait")
    with pytest.raises(OverflowError):
        gate.fill(0x1000, switch=1 << 40, new=0x2000, wait=0x2000)
    with pytest.raises(OverflowError):
        gate.fill(0x1000, switch=0x2000, new=1 << 40, wait=0x2000)


def test_sources_are_found_beside_the_package_and_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = source("gate.S")
    for where in ("checkout/trampolines", "wheel/hotpatch/trampolines"):
        module = tmp_path / where.split("/")[0] / "hotpatch" / "arch" / "assembler.py"
        sources = tmp_path / where / "x86_64"
        module.parent.mkdir(parents=True)
        sources.mkdir(parents=True)
        (sources / "gate.S").write_text(checkout + where)
        monkeypatch.setattr(assembler, "__file__", str(module))
        assert source("gate.S") == checkout + where
    with pytest.raises(FileNotFoundError):
        source("no_such.S")


@pytest.mark.parametrize("name", [name for name, _ in GATES])
def test_every_source_states_its_contract(name: str) -> None:
    text = source(name)
    assert all(f" * {part}" in text for part in ("On entry", "On exit", "Registers", "Symbols"))

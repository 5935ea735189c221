# SPDX-License-Identifier: GPL-2.0-or-later
"""What a gate does to the stack, instruction by instruction.

tests/quiescence unwinds through gates that programs run; here are those that need more than 2 GB.
"""

from __future__ import annotations

from hotpatch.arch.disassembler import decode
from hotpatch.redirect.entry import Function, plan_entry
from hotpatch.redirect.gate import GateCode, build_gate
from tests.redirect.executable import Arena

PUSHES = "push rbx; push r12; push r13; mov eax, 1; pop r13; pop r12; pop rbx; ret"


def gate_of(near: Arena, switch: int, new: int) -> tuple[int, GateCode]:
    address = near.address + 0x1000
    entry = plan_entry(Function("f", address, near.put(address, PUSHES)))
    return address, build_gate(entry, near.address + 0x2000, switch, new, near.door)


def state(gate: GateCode, offset: int) -> tuple[int, int]:
    """The place in the function that an offset stands for, and how much lower rsp is."""
    return next((f.address, f.lowered) for f in reversed(gate.frames) if f.offset <= offset)


def test_a_near_gate_is_as_the_entry_up_to_the_displaced_code(near: Arena) -> None:
    address, gate = gate_of(near, near.address + 0x8000, near.address + 0x3000)
    test, to_new, to_wait, *displaced = decode(gate.code, 0)
    for instruction in (test, to_new, to_wait, displaced[0]):
        assert state(gate, instruction.address) == (address, 0)
    # push rbx; push r12; push r13: 1, 2 and 2 bytes in both places
    places = [state(gate, instruction.address) for instruction in displaced[1:4]]
    assert places == [(address + 1, 0), (address + 3, 0), (address + 5, 0)]
    assert displaced[3].mnemonic == "jmp"


def test_a_far_test_lowers_rsp_for_a_while(near: Arena, far: Arena) -> None:
    address, gate = gate_of(near, far.address + 0x8000, far.address + 0x3000)
    lowered = []
    for instruction in decode(gate.code, 0)[:9]:
        place, depth = state(gate, instruction.address)
        assert place == address
        lowered.append((instruction.mnemonic, depth))
    assert lowered == [
        ("lea", 0),  # makes room for the red zone
        ("push", 128),
        ("movabs", 136),
        ("test", 136),
        ("pop", 136),
        ("lea", 128),
        ("je", 0),
        ("js", 0),
        ("notrack jmp", 0),
    ]


def test_what_waits_lowers_rsp_by_what_it_saves(near: Arena) -> None:
    address, gate = gate_of(near, near.address + 0x8000, near.address + 0x3000)
    start, decided = (place - gate.address for place in gate.waiting)
    depth = 0
    for instruction in decode(gate.code[start:], start):
        if instruction.mnemonic == "ud2":
            break
        assert state(gate, instruction.address) == (address, depth)
        depth += {"push": 8, "pop": -8}.get(instruction.mnemonic, 0)
        assert depth == 64 or not start + 16 < instruction.address < decided
    assert depth == 0

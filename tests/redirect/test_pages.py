# SPDX-License-Identifier: GPL-2.0-or-later
"""Entries across two pages: run after every single write, as if the patcher died behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hotpatch.arch.assembler import assemble
from hotpatch.errors import Refused
from hotpatch.redirect.entry import Entry, Function, Stretch, chained_entry, plan_entry
from hotpatch.redirect.gate import build_gate, gate_size
from tests.redirect.executable import Arena, call, peek, perform, poke, word

PAGE = 4096

# Each returns 2 * x + 1; the replacement returns x - 1.
FUNCTIONS = {
    "rex": "sub rsp, 0x18; mov [rsp+8], rdi; mov rax, [rsp+8]; lea rax, [rax+rax+1]; "
    "add rsp, 0x18; ret",
    "push": "push rbx; mov rbx, rdi; lea rax, [rbx+rbx+1]; pop rbx; ret",
    "push two": "push r12; push rbx; mov r12, rdi; lea rax, [r12+r12+1]; pop rbx; pop r12; ret",
    "frame": "push rbp; mov rbp, rsp; mov [rbp-8], rdi; mov rax, [rbp-8]; lea rax, [rax+rax+1]; "
    "pop rbp; ret",
    "bnd": "movsd xmm0, qword ptr [rsp]; lea rax, [rdi+rdi+1]; ret",
    "mov": "mov eax, edi; lea rax, [rax+rax+1]; ret",
    "short jump": "jmp body; .skip 100, 0xf4; body: lea rax, [rdi+rdi+1]; ret",
    "jump": "jmp body; .skip 300, 0xf4; body: lea rax, [rdi+rdi+1]; ret",
    "nops": "nop; nop; nop; nop; nop; nop; nop; nop; lea eax, [rdi+rdi+1]; ret",
    "endbr64": ".byte 0xf3, 0x0f, 0x1e, 0xfa; push rbx; mov rbx, rdi; lea rax, [rbx+rbx+1]; "
    "pop rbx; ret",
}  # fmt: skip

# With one byte in the first page a write of that byte has to do all; here none would.
IMPOSSIBLE = {("mov", 1)}
# Without padding near by there are no islands.
IMPOSSIBLE_WITHOUT_PADDING = IMPOSSIBLE | {
    ("push", 2), ("push", 3), ("push two", 4), ("mov", 2), ("mov", 3),
    ("bnd", 2), ("bnd", 3), ("bnd", 4),
    ("mov", 4), ("jump", 2), ("jump", 3), ("jump", 4),
    ("push", 4), ("short jump", 1), ("short jump", 2), ("short jump", 3), ("short jump", 4),
    ("endbr64", 2), ("endbr64", 3), ("endbr64", 4),
}  # fmt: skip

PLACES = [(name, room) for name in FUNCTIONS for room in range(1, 5)]


class Patient:
    """A function of which `room` bytes behind an endbr64 lie in the first of two pages."""

    def __init__(self, arena: Arena, text: str, room: int, padding: bytes) -> None:
        skip = 4 if text.startswith(".byte") else 0
        self.address = arena.address + 2 * PAGE - room - skip
        start = arena.address
        poke(start, padding * (4 * PAGE // len(padding)))
        self.code = arena.put(self.address, text)
        end = self.address + len(self.code)
        gaps = (Stretch(end - 0, peek(end, 256)), Stretch(self.address - 256, padding * 256))
        self.function = Function("f", self.address, self.code, gaps)
        self.around = (start, 4 * PAGE)
        self.before = peek(*self.around)
        self.switch = arena.address + 0x80000
        self.new = arena.address + 0x81000
        self.gate = arena.address + 0x82000
        self.door = arena.door
        arena.put(self.new, "lea rax, [rdi - 1]; ret")

    def install(self, entry: Entry, gate: int, new: int) -> int:
        """Build a gate and return where its original is called."""
        built = build_gate(entry, gate, self.switch, new, self.door)
        assert len(built.code) == gate_size(entry) and gate % 16 == 0
        poke(gate, built.code)
        return built.original

    def is_old(self) -> bool:
        return call(self.address, 20) == 41

    def is_new(self) -> bool:
        return call(self.address, 20) == 19


@pytest.fixture(params=["padding", "no padding"])
def padding(request: pytest.FixtureRequest) -> Iterator[bytes]:
    yield {"padding": b"\x90", "no padding": b"\xf4"}[request.param]


def plan(patient: Patient) -> Entry | None:
    try:
        return plan_entry(patient.function)
    except Refused as refusal:
        assert "cross a page boundary" in refusal.reason
        return None


@pytest.mark.parametrize(("name", "room"), PLACES, ids=[f"{n}-{r}" for n, r in PLACES])
def test_every_prefix_of_the_writes_leaves_a_program_that_works(
    near: Arena, name: str, room: int, padding: bytes
) -> None:
    patient = Patient(near, FUNCTIONS[name], room, padding)
    entry = plan(patient)
    impossible = IMPOSSIBLE if padding == b"\x90" else IMPOSSIBLE_WITHOUT_PADDING
    assert (entry is None) == ((name, room) in impossible)
    if entry is None:
        return
    original = patient.install(entry, patient.gate, patient.new)
    arm_in_steps(patient, entry)
    check_armed(patient, original)
    if entry.retargetable and not entry.kept:
        perform(entry.retarget_writes(patient.new))
        assert patient.is_new()
        perform(entry.retarget_writes(patient.gate))
    word(patient.switch).value = 0
    for write in entry.disarm_writes():
        perform([write])
        assert patient.is_old()
    assert peek(*patient.around) == patient.before


def arm_in_steps(patient: Patient, entry: Entry) -> None:
    assert patient.is_old()
    for write in entry.arm_writes(patient.gate):
        assert write.address // PAGE == (write.address + len(write.data) - 1) // PAGE
        perform([write])
        assert patient.is_old()


def check_armed(patient: Patient, original: int) -> None:
    word(patient.switch).value = 1
    assert patient.is_new()
    assert call(original, 20) == 41
    word(patient.switch).value = 0
    assert call(original, 20) == 41
    word(patient.switch).value = 1


@pytest.mark.parametrize(("name", "room"), PLACES, ids=[f"{n}-{r}" for n, r in PLACES])
def test_a_second_gate_works_there_too(near: Arena, name: str, room: int) -> None:
    patient = Patient(near, FUNCTIONS[name], room, b"\x90")
    entry = plan(patient)
    if entry is None:
        return
    patient.install(entry, patient.gate, patient.new)
    perform(entry.arm_writes(patient.gate))
    second_gate, switch = patient.gate + 0x1000, patient.switch
    chained = chained_entry("f", patient.address, peek(patient.address, 64), patient.gate)
    patient.switch += 0x100
    newest = near.address + 0x85000
    near.put(newest, "lea rax, [rdi - 2]; ret")
    original = patient.install(chained, second_gate, newest)
    (write,) = chained.arm_writes(second_gate)
    assert write.address // PAGE == (write.address + len(write.data) - 1) // PAGE
    perform([write])
    for first, second, result in ((0, 0, 41), (1, 0, 19), (0, 1, 18), (1, 1, 18)):
        word(switch).value, word(patient.switch).value = first, second
        assert call(patient.address, 20) == result
        assert call(original, 20) == (19 if first else 41)
    perform(chained.disarm_writes())
    assert patient.is_new()


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_a_function_that_ends_in_the_first_page(near: Arena, room: int) -> None:
    text = {1: "ret", 2: "nop; ret", 3: "xor eax, eax; ret", 4: "lea eax, [rdi]; ret"}[room]
    assert len(assemble(text, 0).code) <= room
    patient = Patient(near, text, room, b"\xcc")
    patient.function = patient.function._replace(gaps=patient.function.gaps[:1])
    entry = plan(patient)
    assert entry is not None and entry.resume is None
    patient.install(entry, patient.gate, patient.new)
    for write in entry.arm_writes(patient.gate):
        perform([write])
        call(patient.address, 20)
    word(patient.switch).value = 1
    assert patient.is_new()
    word(patient.switch).value = 0
    for write in entry.disarm_writes():
        perform([write])
        call(patient.address, 20)
    assert peek(*patient.around) == patient.before


@pytest.mark.parametrize("room", [1, 2, 3, 4])
def test_a_loop_into_kept_instructions_is_refused(near: Arena, room: int) -> None:
    # Kept: push rbx. A branch behind it would have the gate undo a push that was not made.
    text = "push rbx; l: mov eax, edi; dec edi; jne l; pop rbx; ret"
    patient = Patient(near, text, room, b"\xf4")
    with pytest.raises(Refused):
        plan_entry(patient.function)

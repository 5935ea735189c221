# SPDX-License-Identifier: GPL-2.0-or-later
"""Gates are run: they choose by the switch, and change nothing on the way."""

from __future__ import annotations

import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from hotpatch.arch.assembler import assemble
from hotpatch.arch.disassembler import decode
from hotpatch.errors import Refused
from hotpatch.linux import procfs
from hotpatch.redirect.entry import Entry, Function, Stretch, plan_entries, plan_entry
from hotpatch.redirect.gate import (
    GATE_ALIGNMENT,
    Door,
    GateCode,
    build_gate,
    build_gates,
    gate_size,
)
from tests.redirect.executable import Arena, call, futex_wake, peek, perform, poke, word
from tests.support.programs import wait_until

REGISTERS = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12",
             "r13", "r14", "r15"]  # fmt: skip
SAVED = ["rbx", "rbp", "r12", "r13", "r14", "r15"]


class Layout(NamedTuple):
    """Offsets in the near arena."""

    function: int = 0x1000
    gate: int = 0x2000
    new: int = 0x3000
    harness: int = 0x4000
    inputs: int = 0x5000
    outputs: int = 0x6000
    old_outputs: int = 0x7000
    switch: int = 0x8000


AT = Layout()


def dump(arena: Arena, out: int) -> tuple[str, dict[str, int]]:
    """Return assembly that stores every register, rsp and the top of the stack, and its symbols."""
    names = [*REGISTERS, "rsp"]
    symbols = {f"out_{r}": arena.address + out + 8 * i for i, r in enumerate(names)}
    symbols["out_return"] = arena.address + out + 8 * len(names)
    stores = [f"mov qword ptr [rip + out_{r}], {r}" for r in names]
    stores += ["mov rax, [rsp]", "mov qword ptr [rip + out_return], rax"]
    return "\n".join([*stores, "ret"]), symbols


def outputs(arena: Arena, out: int) -> dict[str, int]:
    names = [*REGISTERS, "rsp", "return"]
    values = struct.unpack(f"<{len(names)}Q", peek(arena.address + out, 8 * len(names)))
    return dict(zip(names, values, strict=True))


def put_harness(arena: Arena, entry: int) -> None:
    """Put code that calls `entry` with every register set to a value of its own."""
    symbols = {f"in_{r}": arena.address + AT.inputs + 8 * i for i, r in enumerate(REGISTERS)}
    loads = [f"mov {r}, qword ptr [rip + in_{r}]" for r in REGISTERS]
    text = [*(f"push {r}" for r in SAVED), "sub rsp, 8", *loads, "call entry", "add rsp, 8"]
    text += [*(f"pop {r}" for r in reversed(SAVED)), "ret"]
    arena.put(arena.address + AT.harness, "\n".join(text), entry=entry, **symbols)
    values = [0x1111111111111111 * (i + 1) & (1 << 64) - 1 for i in range(len(REGISTERS))]
    poke(arena.address + AT.inputs, struct.pack(f"<{len(values)}Q", *values))


PROLOGUES = {
    "plain": "",
    "endbr64": ".byte 0xf3, 0x0f, 0x1e, 0xfa\n",
    "nops": "nop\n" * 8,
}


def gated(arena: Arena, prologue: str, switch: int, new: int) -> tuple[Entry, GateCode]:
    """Put a function that dumps its registers behind a gate."""
    text, symbols = dump(arena, AT.old_outputs)
    address = arena.address + AT.function
    code = arena.put(address, prologue + text, **symbols)
    entry = plan_entry(Function("f", address, code))
    gate = build_gate(entry, arena.address + AT.gate, switch, new, arena.door)
    poke(gate.address, gate.code)
    return entry, gate


@pytest.mark.parametrize("prologue", PROLOGUES.values(), ids=PROLOGUES.keys())
@pytest.mark.parametrize("where", ["near", "far switch", "far new", "far"])
def test_no_register_changes_between_the_call_and_either_function(
    near: Arena, far: Arena, prologue: str, where: str
) -> None:
    switch = (far if where in ("far switch", "far") else near).address + AT.switch
    new = (far if where in ("far new", "far") else near).address + AT.new
    home = far if where in ("far new", "far") else near
    text, symbols = dump(home, AT.outputs)
    home.put(new, text, **symbols)
    entry, gate = gated(near, prologue, switch, new)
    put_harness(near, near.address + AT.function)
    call(near.address + AT.harness)
    expected = outputs(near, AT.old_outputs)
    assert expected["r15"] != 0
    perform(entry.arm_writes(gate.address))
    for on, arena, out in ((0, near, AT.old_outputs), (1, home, AT.outputs)):
        poke(arena.address + out, bytes(256))
        word(switch).value = on
        call(near.address + AT.harness)
        assert outputs(arena, out) == expected
    put_harness(near, gate.original)
    poke(near.address + AT.old_outputs, bytes(256))
    call(near.address + AT.harness)
    assert outputs(near, AT.old_outputs) == expected


def test_a_moved_call_returns_where_the_compiler_meant_it_to(near: Arena) -> None:
    address, callee = near.address + AT.function, near.address + 0x1800
    near.put(callee, "mov rax, [rsp]; ret")
    slot = near.address + 0x1900
    poke(slot, callee.to_bytes(8, "little"))
    for text in ("call callee; ret", "push rax; call callee; pop rcx; ret",
                 "call qword ptr [rip + slot]; ret", "call r11; .byte 0x0f, 0x1f, 0x00; ret",
                 "lea r11, [rip + callee]; call r11; ret"):  # fmt: skip
        code = near.put(address, text, callee=callee, slot=slot)
        if "call r11; .byte" in text:
            with pytest.raises(Refused, match="returns into"):
                plan_entry(Function("f", address, code))
            continue
        expected = call(address)
        assert address < expected < address + 16
        entry = plan_entry(Function("f", address, code))
        assert entry.moves_call == ("lea" not in text)
        switch = near.address + AT.switch
        gate = build_gate(entry, near.address + AT.gate, switch, near.address + AT.new, near.door)
        poke(gate.address, gate.code)
        perform(entry.arm_writes(gate.address))
        assert call(address) == expected
        assert call(gate.original) == expected


BRANCHES = {
    "je": ("test edi, edi; je zero; mov eax, 7; ret; zero: mov eax, 9; ret", {0: 9, 1: 7}),
    "js": ("add edi, 0; js low; mov eax, 7; ret; low: mov eax, 9; ret", {-1: 9, 1: 7}),
    "jrcxz": ("mov ecx, edi; jrcxz zero; mov eax, 7; ret; zero: mov eax, 9; ret", {0: 9, 1: 7}),
    "loop": ("mov ecx, edi; loop more; mov eax, 7; ret; more: mov eax, 9; ret", {2: 9, 1: 7}),
    "jmp": ("jmp on; .skip 9, 0xf4; on: lea eax, [rdi + 1]; ret", {5: 6}),
    "ret": ("lea eax, [rdi]; inc eax; ret", {5: 6}),
}


@pytest.mark.parametrize(("text", "results"), BRANCHES.values(), ids=BRANCHES.keys())
def test_displaced_branches_go_where_they_went(
    near: Arena, text: str, results: dict[int, int]
) -> None:
    address = near.address + AT.function
    code = near.put(address, text)
    function = Function("f", address, code, (Stretch(address - 16, b"\x90" * 16),))
    poke(address - 16, b"\x90" * 16)
    entry = plan_entry(function)
    gate = build_gate(
        entry, near.address + AT.gate, near.address + AT.switch, near.address + AT.new, near.door
    )
    poke(gate.address, gate.code)
    for writes in ((), entry.arm_writes(gate.address)):
        perform(writes)
        assert {x: call(address, x) for x in results} == results


@pytest.mark.parametrize("where", ["near", "far"])
def test_a_loop_back_to_the_entry_keeps_its_red_zone(near: Arena, far: Arena, where: str) -> None:
    loop = "cmp edi, 10; je out; mov [rsp - 8], rdi; mov [rsp - 128], rdi; inc rdi; jmp loop"
    text = f"loop: {loop}\nout: mov rax, [rsp - 8]; add rax, [rsp - 128]; ret"
    address = near.address + AT.function
    entry = plan_entry(Function("f", address, near.put(address, text)))
    assert len(entry.reentries) == 1
    away = near if where == "near" else far
    gate = build_gate(
        entry, near.address + AT.gate, away.address + AT.switch, away.address + AT.new, near.door
    )
    poke(gate.address, gate.code)
    assert call(address, 5) == 18
    perform(entry.arm_writes(gate.address))
    assert call(address, 5) == 18


def test_the_size_of_a_gate_holds_wherever_it_is_put(near: Arena) -> None:
    entry, _ = gated(near, "", near.address + AT.switch, near.address + AT.new)
    size = gate_size(entry)
    assert size % GATE_ALIGNMENT == 0
    for switch, new in ((0x1000, 0x2000), (near.address, near.address), (near.address, 1 << 46)):
        assert len(build_gate(entry, near.address + AT.gate, switch, new, near.door).code) == size


def test_a_gate_too_far_from_its_entry_is_refused(near: Arena, far: Arena) -> None:
    entry, _ = gated(near, "", near.address + AT.switch, near.address + AT.new)
    with pytest.raises(Refused, match="f can't be placed"):
        build_gate(entry, far.address, far.address + AT.switch, far.address + AT.new, far.door)


def test_a_gate_out_of_reach_of_what_it_displaces_is_refused() -> None:
    code = assemble("lea rax, [rip + data]; ret", 0x90000000, data=0x11000000).code
    entry = plan_entry(Function("f", 0x90000000, code))
    with pytest.raises(Refused, match="f can't be placed"):
        build_gate(entry, 0xA0000000, 0xA0001000, 0xA0002000, Door(0xA0003010, 0xA0003000))


def test_a_thousand_gates_take_no_time() -> None:
    prologue = assemble("push rbp; mov rbp, rsp; lea rax, [rip + 0x100]; pop rbp; ret", 0).code
    body = prologue + b"\x90" * 200 + bytes(range(256))
    functions = [Function(f"f{i}", 0x400000 + 512 * i, body) for i in range(1000)]
    plan_entry(functions[0])  # imports capstone
    door = Door(0x10000000, 0x10000000)
    build_gate(plan_entry(functions[0]), 0x10000000, 0x10000000, 0x10000000, door)
    began = time.process_time()
    entries = plan_entries(functions)
    gates = build_gates(entries, 0x800000, 0x900000, [0x900010] * 1000, 0x910000)
    took = time.process_time() - began
    size = gate_size(entries[0])
    assert [g.address for g in gates] == [0x800000 + size * i for i in range(1000)]
    assert all(len(g.code) == gate_size(e) for g, e in zip(gates, entries, strict=True))
    assert took < 1  # 0.06 s where nothing else runs


def test_every_instruction_of_a_gate_is_one() -> None:
    code = assemble("mov eax, edi; inc eax; mov ecx, eax; ret", 0x401000).code
    door = Door(0x800010, 0x800000)
    entry = plan_entry(Function("f", 0x401000, code))
    gate = build_gate(entry, 0x500000, 0x600000, 0x700000, door)
    instructions = decode(gate.code, gate.address)
    assert sum(len(i.data) for i in instructions) == len(gate.code)
    assert [i.mnemonic for i in instructions][:7] == ["cmp", "jg", "jl", "mov", "inc", "mov", "jmp"]
    last = next(n for n, i in enumerate(instructions) if i.mnemonic == "ud2")
    assert instructions[last - 1].mnemonic == "jmp"
    assert {i.mnemonic for i in instructions[last:]} == {"ud2"}


WAIT = -(1 << 31)  # bit 31 of the switch: callers wait


def sleeps_at(address: int) -> bool:
    """Whether a thread of this process sleeps at a futex there."""
    sleeps = (procfs.sleep(os.getpid(), tid) for tid in procfs.threads(os.getpid()))
    return any(s and (s.number, s.arguments[0]) == (202, address) for s in sleeps)


def set_door(arena: Arena, shut: bool, seconds: float) -> None:
    """Shut the door until so many seconds from now, or open it."""
    until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(seconds * 1e9)
    poke(arena.door.deadline, struct.pack("<qq", *divmod(until, 1_000_000_000)))
    word(arena.door.word).value = shut


@pytest.mark.parametrize("where", ["near", "far switch", "far new", "far"])
@pytest.mark.parametrize("on", [0, 1])
def test_no_register_changes_in_a_caller_that_waits(
    near: Arena, far: Arena, where: str, on: int
) -> None:
    switch = (far if where in ("far switch", "far") else near).address + AT.switch
    home = far if where in ("far new", "far") else near
    text, symbols = dump(home, AT.outputs)
    home.put(home.address + AT.new, text, **symbols)
    entry, gate = gated(near, "", switch, home.address + AT.new)
    put_harness(near, near.address + AT.function)
    call(near.address + AT.harness)
    expected = outputs(near, AT.old_outputs)
    perform(entry.arm_writes(gate.address))
    word(switch).value = WAIT | on
    arena, out = (home, AT.outputs) if on else (near, AT.old_outputs)
    for shut, seconds in ((True, 0.05), (False, 1000)):
        poke(arena.address + out, bytes(256))
        set_door(near, shut, seconds)
        began = time.monotonic()
        call(near.address + AT.harness)
        assert (time.monotonic() - began >= 0.05) == shut
        assert outputs(arena, out) == expected
        assert word(near.door.word).value == 0  # whoever gets tired of waiting opens it for all


def test_a_caller_goes_where_the_switch_says_when_the_door_opens(near: Arena) -> None:
    near.put(near.address + AT.new, "mov eax, 2; ret")
    address, switch = near.address + AT.function, near.address + AT.switch
    code = near.put(address, "mov eax, 1; nop; ret")
    entry = plan_entry(Function("f", address, code))
    for new, last in ((near.address + AT.new, 2), (None, 1)):
        gate = build_gate(entry, near.address + AT.gate, switch, new, near.door)
        poke(gate.address, gate.code)
        perform(entry.arm_writes(gate.address))
        for on in (1, 0):
            word(switch).value = WAIT | 1 - on
            set_door(near, True, 60)
            with ThreadPoolExecutor(1) as pool:
                result = pool.submit(call, address)
                wait_until(lambda: sleeps_at(near.door.word), "the caller waits")
                assert not result.done()
                word(switch).value = on
                word(near.door.word).value = 0
                futex_wake(near.door.word)
                assert result.result(10) == (last if on else 1)


def test_a_function_that_loops_back_to_its_entry_never_waits(near: Arena) -> None:
    text = "loop: cmp edi, 10; je out; inc edi; jmp loop; out: mov eax, edi; ret"
    address, switch = near.address + AT.function, near.address + AT.switch
    entry = plan_entry(Function("f", address, near.put(address, text)))
    gate = build_gate(entry, near.address + AT.gate, switch, near.address + AT.new, near.door)
    poke(gate.address, gate.code)
    perform(entry.arm_writes(gate.address))
    word(switch).value = WAIT
    set_door(near, True, 60)
    assert (gate.door, call(address, 5)) == (0, 10)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Unwinding in what hotpatch itself put into a process: gates, displaced code, replacements.

There, gdb knows nothing. What is true is known from the entry: the return address that rsp points
to when a function is entered, and the frames of the caller. They must be found again at
each instruction from there on until the function returns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

import hotpatch
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence.places import Places
from hotpatch.quiescence.unwind import Stack, Unwinder
from tests.quiescence.conftest import Compile
from tests.quiescence.gdb_frames import Gdb, GdbThread
from tests.quiescence.test_unwind import registers_of
from tests.support.programs import Program, started

KEPT = ["kept_frame", "kept_pushes"]
FUNCTIONS = ["plain", "pushes", "frame", "makes_room", "calls_first", "calls_second",
             "loops_first", "branches_first", "by_padding", *KEPT]  # fmt: skip
MOST_STEPS = 120


@pytest.fixture
def program(compiled: Compile) -> Iterator[Program]:
    with started([compiled("gated.c gated.S", "-O2")]) as running:
        yield running


@pytest.fixture
def patch(compiled: Compile) -> str:
    return compiled("gated_patch.c", "-O2", "-shared", "-fPIC")


class Walk:
    """A walk of one thread from the entry of a function until it returns."""

    def __init__(self, gdb: Gdb, process: Process, unwinder: Unwinder, thread: GdbThread) -> None:
        self.unwinder, self.process = unwinder, process
        self.gdb, self.thread = gdb, thread
        self.stack = self.unwind()
        assert self.stack.complete, self.stack.reason

    def unwind(self) -> Stack:
        return self.unwinder.unwind(registers_of(self.thread), self.process.read)

    def instructions(self) -> Iterator[int]:
        """Yield each program counter on the way; the stack must stay what it was, or grow."""
        rsp = self.thread.registers["rsp"]
        back = struct.unpack("<Q", self.process.read(rsp, 8))[0]
        for _ in range(MOST_STEPS):
            pc = self.thread.registers["rip"]
            if (pc, self.thread.registers["rsp"]) == (back, rsp + 8):
                return
            stack = self.unwind()
            assert stack.complete, (hex(pc), stack.reason)
            frames = {frame.cfa: number for number, frame in enumerate(stack.frames)}
            assert rsp + 8 in frames, (hex(pc), stack)
            assert stack.frames[frames[rsp + 8] + 1 :] == self.stack.frames[1:]
            yield pc
            self.thread = self.gdb.step(self.thread.tid)
        raise AssertionError("it does not return")


def walks(gdb: Gdb, pid: int, process: Process) -> Iterator[tuple[ledger.Function, list[int]]]:
    """For each replaced function, the program counters of a call."""
    functions = [f for entry in process.patches for f in entry.record.functions]
    unwinder = Unwinder(process)
    thread = next(t for t in gdb.attach(pid) if t.tid != pid)
    for name in FUNCTIONS:
        found = [f for f in functions if f.name == name]
        thread = gdb.run_to(thread.tid, f"*{found[0].old:#x}")
        walk = Walk(gdb, process, unwinder, thread)
        counters = list(walk.instructions())
        for function in found:
            yield function, counters


def passed(counters: list[int], start: int, size: int) -> int:
    return sum(start <= pc < start + size for pc in counters)


def set_switch(process: Process, value: int) -> None:
    for entry in process.patches:
        address = entry.address + ledger.SWITCH_OFFSET
        process.memory.write(address, struct.pack("<I", value))


@pytest.mark.parametrize("switch", [ledger.OFF, ledger.ON], ids=["old", "new"])
def test_gates_and_replacements(program: Program, patch: str, switch: int) -> None:
    hotpatch.apply(program.pid, patch)
    with Process(program.pid) as process, Gdb() as gdb:
        set_switch(process, switch)
        seen = []
        for function, counters in walks(gdb, program.pid, process):
            assert passed(counters, *function.gate) > 2
            replaced = any(passed(counters, *code) for code in function.code)
            assert replaced == (switch == ledger.ON), function.name
            assert counters[-1] not in range(function.gate[0], sum(function.gate))
            seen.append(function.name)
        assert sorted(seen) == sorted(FUNCTIONS)
        functions = process.patches[0].record.functions
        assert sorted(f.name for f in functions if f.frames[0][1] != f.old) == KEPT
        assert [f.name for f in functions if len(f.arm) > 1] == ["by_padding"]


def test_gates_upon_gates(program: Program, patch: str, compiled: Compile) -> None:
    second = compiled("gated_patch.c", "-O1", "-shared", "-fPIC")
    hotpatch.apply(program.pid, patch)
    hotpatch.apply(program.pid, second)
    with Process(program.pid) as process, Gdb() as gdb:
        gates = [f.gate for e in process.patches for f in e.record.functions if f.name == "frame"]
        assert len(gates) == 2
        for switch in (ledger.ON, ledger.OFF):
            set_switch(process, switch)
            found = [passed(counters, *f.gate) for f, counters in walks(gdb, program.pid, process)]
            assert all(found)
            assert len(found) == 2 * len(FUNCTIONS)
            gdb.detach()


def test_a_patch_without_call_frame_information(program: Program, compiled: Compile) -> None:
    flags = ("-O2", "-shared", "-fPIC", "-nostdlib", "-Wl,--no-eh-frame-hdr",
             "-fno-asynchronous-unwind-tables")  # fmt: skip
    hotpatch.apply(program.pid, compiled("gated_patch.c", *flags))
    with Process(program.pid) as process, Gdb() as gdb:
        (entry,) = process.patches
        assert not entry.record.frames
        (function,) = (f for f in entry.record.functions if f.name == "frame")
        thread = next(t for t in gdb.attach(program.pid) if t.tid != program.pid)
        thread = gdb.run_to(thread.tid, f"*{function.new:#x}")
        stack = Unwinder(process).unwind(registers_of(thread), process.read)
        assert not stack.complete
        assert "has no .eh_frame_hdr" in stack.reason


def test_descriptions_name_gates_and_patches(program: Program, patch: str) -> None:
    hotpatch.apply(program.pid, patch)
    with Process(program.pid) as process, Gdb() as gdb:
        (entry,) = process.patches
        (function,) = (f for f in entry.record.functions if f.name == "frame")
        thread = next(t for t in gdb.attach(program.pid) if t.tid != program.pid)
        for place in (function.gate[0], function.new):
            thread = gdb.run_to(thread.tid, f"*{place:#x}")
            stack = Unwinder(process).unwind(registers_of(thread), process.read)
            described = [str(Places(process).of(frame)) for frame in stack.frames]
            assert described[1].startswith("run+")
            expected = "frame+0x0 (gate)" if place == function.gate[0] else "(patch "
            assert expected in described[0]

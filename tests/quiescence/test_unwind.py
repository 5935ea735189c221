# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks as gdb and eu-stack see them, of programs that are held still by those."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpatch.arch.frames import DWARF_REGISTERS
from hotpatch.arch.registers import Registers
from hotpatch.linux import procfs
from hotpatch.linux.priority import undisturbed
from hotpatch.linux.threads import Hold
from hotpatch.process.image import Process
from hotpatch.quiescence.places import Places
from hotpatch.quiescence.unwind import Frame, Stack, Unwinder
from tests.quiescence.conftest import Compile
from tests.quiescence.gdb_frames import Gdb, GdbThread
from tests.support.proc import status_field
from tests.support.programs import executable, running, started, wait_until


def registers_of(thread: GdbThread) -> Registers:
    registers = Registers()
    for name, value in thread.registers.items():
        setattr(registers, name, value)
    return registers


def shown(stack: Stack) -> list[tuple[int, int]]:
    return [(frame.pc, frame.cfa) for frame in stack.frames]


def assert_as_gdb(stack: Stack, thread: GdbThread) -> None:
    """Every program counter, every CFA, which frames made a call: as gdb has it, to the end."""
    theirs = [frame.pc for frame in thread.frames]
    assert [frame.pc for frame in stack.frames] == theirs, (stack.reason, thread)
    assert stack.complete, stack.reason
    assert thread.stop == "outermost"
    assert [f.cfa for f in stack.frames[:-1]] == [f.sp for f in thread.frames[1:]], thread
    interrupted = {0}
    for number, frame in enumerate(thread.frames):
        if frame.signal:
            interrupted |= {number, number + 1}
    assert {n for n, frame in enumerate(stack.frames) if not frame.call} == interrupted


def check_all(process: Process, unwinder: Unwinder, threads: list[GdbThread]) -> list[Stack]:
    stacks = [unwinder.unwind(registers_of(thread), process.read) for thread in threads]
    for stack, thread in zip(stacks, threads, strict=True):
        assert_as_gdb(stack, thread)
    return stacks


def check_process(gdb: Gdb, pid: int, samples: int = 1) -> list[Stack]:
    """Compare the stacks of all threads, several times; return the last ones."""
    stacks: list[Stack] = []
    with Process(pid) as process:
        unwinder = Unwinder(process)
        for _ in range(samples):
            threads = gdb.attach(pid)
            try:
                stacks = check_all(process, unwinder, threads)
            finally:
                gdb.detach()
    return stacks


def names(process: Process, stack: Stack) -> list[str]:
    places = Places(process)
    found = [places.of(frame) for frame in stack.frames]
    return [f"{place.function}+{place.offset:#x} ({place.module})" for place in found]


# ---- programs asleep ----


@pytest.mark.parametrize(
    "command",
    [
        ["threads", "20"],
        ["sleepers"],
        ["timer"],
        ["simple"],
        ["simple-nopie"],
        ["simple-static"],
        ["simple-static-pie"],
        ["simple-debuglink"],
        ["simple-dynsym"],
    ],
    ids=lambda command: command[0],
)
def test_programs(gdb: Gdb, command: list[str]) -> None:
    with running(*command) as program:
        check_process(gdb, program.pid, samples=3)


@pytest.mark.parametrize("mode", ["asleep", "recursive", "signal", "altstack", "handler"])
def test_inside(gdb: Gdb, mode: str) -> None:
    with running("inside", mode) as program:
        program.ask("enter")
        stacks = check_process(gdb, program.pid)
        with Process(program.pid) as process:
            described = [names(process, stack) for stack in stacks]
        computing = [d for d in described if any(name.startswith("compute+") for name in d)]
        assert len(computing) == 1
        assert sum(name.startswith("compute+") for name in computing[0]) == (
            11 if mode == "recursive" else 1
        )
        program.ask("leave")


def test_a_coroutine_and_who_resumed_it(gdb: Gdb) -> None:
    """The thread is back on its own stack, where the coroutine's frames are not."""
    with running("inside", "coroutine") as program:
        program.ask("enter")
        stacks = check_process(gdb, program.pid)
        with Process(program.pid) as process:
            assert not any("compute" in n for stack in stacks for n in names(process, stack))
        program.ask("leave")


def test_python(gdb: Gdb) -> None:
    """A deep recursion in one thread, sleeping threads, and code of many libraries."""
    text = """
import ctypes, json, os, sys, threading, time
sys.setrecursionlimit(10000)
def deep(n, then):
    # A call through C, so that there are frames of C as well.
    return then() if not n else max([n], key=lambda m: deep(m - 1, then))
def ready():
    print("READY pid=%d" % os.getpid(), flush=True)
    sys.stdin.read()
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
threading.Thread(target=deep, args=(50, lambda: time.sleep(600)), daemon=True).start()
deep(100, ready)
"""
    with started([sys.executable, "-c", text]) as program:
        stacks = check_process(gdb, program.pid, samples=2)
        assert max(len(stack.frames) for stack in stacks) > 300


# ---- every instruction ----


class Shape(NamedTuple):
    """How the program is compiled, and why gdb or we may be lost at some instruction."""

    compiler: str
    flags: tuple[str, ...]
    unknown: str = "nothing"


# gcc says where rbp is saved, but not that it was restored, in functions that realign the stack.
STALE = "rbp is lost"
# Entries that a static program calls functions of the C library through, chosen at its start.
IPLT = "no call frame information"
SHAPES = {
    "gcc -O0": Shape("gcc", ("-O0",), STALE),
    "gcc -O2": Shape("gcc", ("-O2",)),
    "gcc -O3 with AVX2": Shape("gcc", ("-O3", "-mavx2")),
    "gcc frame pointer": Shape("gcc", ("-O2", "-fno-omit-frame-pointer"), STALE),
    "gcc -Os": Shape("gcc", ("-Os",)),
    "gcc lazy binding": Shape("gcc", ("-O2", "-Wl,-z,lazy", "-fcf-protection=none")),
    "gcc static": Shape("gcc", ("-O2", "-static"), IPLT),
    "gcc pushed arguments": Shape("gcc", ("-O1", "-mno-accumulate-outgoing-args", "-mpush-args")),
    "gcc .debug_frame": Shape("gcc", ("-O2", "-g", "-fno-asynchronous-unwind-tables",
                                      "-fno-unwind-tables")),
    "clang -O2": Shape("clang", ("-O2",)),
    "clang -O0": Shape("clang", ("-O0",)),
}  # fmt: skip
STEPS = 700


@pytest.mark.parametrize("kind", SHAPES)
def test_every_instruction(compiled: Compile, kind: str) -> None:
    """Prologues, epilogues, PLT, lazy binding, callbacks, alloca: gdb steps, we agree each time."""
    shape, unknown = SHAPES[kind], 0
    path = compiled("shapes.c", *shape.flags, compiler=shape.compiler)
    with started([path]) as program, Process(program.pid) as process, Gdb() as gdb:
        unwinder = Unwinder(process)
        threads = gdb.attach(program.pid)
        thread = next(t for t in threads if t.tid != program.pid)
        for _ in range(STEPS):
            stack = unwinder.unwind(registers_of(thread), process.read)
            if shape.unknown in stack.reason:
                assert not stack.complete
                assert len(stack.frames) <= 2
                unknown += 1
            else:
                assert_as_gdb(stack, thread)
            thread = gdb.step(thread.tid)
    assert unknown < STEPS / 20


def test_call_frame_information_in_a_separate_debug_file(compiled: Compile, tmp_path: Path) -> None:
    """What a program that has no .eh_frame of its own was stripped of."""
    path, debug = str(tmp_path / "shapes"), str(tmp_path / "shapes.debug")
    flags = SHAPES["gcc .debug_frame"].flags
    shutil.copy(compiled("shapes.c", *flags), path)
    subprocess.run(["objcopy", "--only-keep-debug", path, debug], check=True)
    subprocess.run(["objcopy", "--strip-all", f"--add-gnu-debuglink={debug}", path], check=True)
    with started([path]) as program, Process(program.pid) as process, Gdb() as gdb:
        unwinder = Unwinder(process)
        threads = gdb.attach(program.pid)
        thread = next(t for t in threads if t.tid != program.pid)
        for _ in range(200):
            assert_as_gdb(unwinder.unwind(registers_of(thread), process.read), thread)
            thread = gdb.step(thread.tid)


def test_the_vdso(compiled: Compile) -> None:
    path = compiled("vdso.c", "-O2")
    with started([path]) as program, Process(program.pid) as process, Gdb() as gdb:
        (vdso,) = (m for m in process.mappings if m.path == "[vdso]")
        unwinder, places, inside = Unwinder(process), Places(process), 0
        threads = gdb.attach(program.pid)
        thread = next(t for t in threads if t.tid != program.pid)
        for _ in range(300):
            thread = gdb.step(thread.tid)
            (stack,) = check_all(process, unwinder, [thread])
            if vdso.start <= thread.frames[0].pc < vdso.end:
                place = places.of(stack.frames[0])
                assert (place.function, place.module) == ("clock_gettime", "[vdso]")
                inside += 1
        assert inside > 30


@pytest.mark.parametrize("form", [(), ("-DSHORT",)], ids=["mov rax", "mov eax"])
@pytest.mark.parametrize("stack", [[], ["altstack"]], ids=["same stack", "alternate stack"])
def test_a_signal_return_that_nothing_is_said_of(
    gdb: Gdb, compiled: Compile, form: tuple[str, ...], stack: list[str]
) -> None:
    with started([compiled("restorer.c", "-O2", *form), *stack]) as program:
        (unwound,) = check_process(gdb, program.pid)
        with Process(program.pid) as process:
            found = names(process, unwound)
        assert sum(name.startswith("__restore_rt+0x0 ") for name in found) == 1
        assert any(name.startswith("main+") for name in found)


def test_a_signal_at_the_last_jump_of_a_function(gdb: Gdb, compiled: Compile) -> None:
    """Nothing of its frame is left, so its caller's begins where its own does."""
    with started([compiled("jumping.c", "-O2")]) as program:
        (unwound,) = check_process(gdb, program.pid)
        with Process(program.pid) as process:
            found = [name.split("+")[0] for name in names(process, unwound)]
        assert found[found.index("jumps") + 1] == "main"


# ---- eu-stack ----

_EU_FRAME = re.compile(r"#\d+ +0x([0-9a-f]+)")


def eu_stack(pid: int) -> dict[int, list[int]]:
    """The program counters of each thread as elfutils finds them."""
    command = ["eu-stack", "-n", "0", "-p", str(pid)]
    output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    found: dict[int, list[int]] = {}
    for line in output.splitlines():
        if line.startswith("TID "):
            counters = found.setdefault(int(line[4:].rstrip(":")), [])
        elif match := _EU_FRAME.match(line):
            counters.append(int(match[1], 16))
    return found


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Stop a process with SIGSTOP, wait until it is, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: all_stopped(pid), "every thread is stopped")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def all_stopped(pid: int) -> bool:
    states = {line.split()[0] for line in status_field(pid, "State")}
    return states <= {"T", "Z"}


def unwind_held(pid: int) -> dict[int, Stack]:
    """The stacks of a process that we hold ourselves, as an update does."""
    with Process(pid) as process:
        unwinder = Unwinder(process)
        with undisturbed(), Hold(pid) as hold:
            return {
                tid: unwinder.unwind(thread.registers, process.read)
                for tid, thread in hold.threads.items()
            }


@pytest.mark.parametrize(
    "command",
    [["threads", "10"], ["inside", "recursive"], ["simple-static"], ["mallocs"]],
    ids=lambda command: command[0],
)
def test_eu_stack_finds_the_same(command: list[str]) -> None:
    with running(*command) as program:
        if command[0] == "inside":
            program.ask("enter")
        program.expect_progress()  # no thread is just being started
        with standing_still(program.pid):
            ours = unwind_held(program.pid)
            theirs = eu_stack(program.pid)
        assert ours
        for tid, stack in ours.items():
            assert stack.complete, stack.reason
            assert [frame.pc for frame in stack.frames] == theirs[tid]


def test_a_leader_that_has_ended() -> None:
    """Neither gdb nor eu-stack takes such a process."""
    with running("leaderless") as program:
        program.expect_progress()
        stacks = unwind_held(program.pid)
        with Process(program.pid) as process:
            begun = [names(process, stack)[-3:] for stack in stacks.values()]
        assert len(stacks) == 4
        assert all(stack.complete for stack in stacks.values())
        assert all(described[0].startswith("run_thread+") for described in begun)


# ---- what is refused ----


def test_musl_says_nothing_so_nothing_is_claimed() -> None:
    """musl is built without any call frame information."""
    if not Path(executable("simple-musl")).exists():
        pytest.skip("no musl-gcc")
    with running("simple-musl") as program:
        for stack in unwind_held(program.pid).values():
            assert not stack.complete
            assert "no call frame information" in stack.reason
            assert stack.frames[-1].cfa == 0


class FakeRegisters(Registers):
    """Registers of a thread that there is not."""

    def __init__(self, **values: int) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)


@pytest.fixture(scope="module")
def sleeping() -> Iterator[tuple[Process, Registers]]:
    """A process that stands still, and the registers of a thread of it."""
    with running("simple") as program, Process(program.pid) as process:
        program.ask()
        with standing_still(program.pid):
            with undisturbed(), Hold(program.pid) as hold:
                registers = hold.threads[program.pid].registers.copy()
            yield process, registers


def test_a_stack_that_can_not_be_read(sleeping: tuple[Process, Registers]) -> None:
    process, registers = sleeping

    def nothing(address: int, size: int) -> bytes:
        raise OSError(14, "not copied")

    for read in (nothing, lambda address, size: b"", lambda address, size: bytes(size - 1)):
        stack = Unwinder(process).unwind(registers, read)
        assert stack.frames == (Frame(registers.rip, 0, False),)
        assert not stack.complete
        assert "no known caller" in stack.reason


def test_a_limit(sleeping: tuple[Process, Registers]) -> None:
    process, registers = sleeping
    stack = Unwinder(process).unwind(registers, process.read, limit=2)
    assert (len(stack.frames), stack.complete, stack.reason) == (2, False, "more than 2 frames")


def test_code_in_no_file(sleeping: tuple[Process, Registers]) -> None:
    process, registers = sleeping
    for rip in (0x1000, registers.rsp, (1 << 64) - 1, 0):
        stack = Unwinder(process).unwind(FakeRegisters(rip=rip, rsp=registers.rsp), process.read)
        assert not stack.complete
        assert stack.frames == (Frame(rip, 0, False),)
        assert "in no file" in stack.reason


def test_a_return_address_that_nothing_calls_from(sleeping: tuple[Process, Registers]) -> None:
    """A word that leads to the middle of a function, but not behind a call, is none."""
    process, registers = sleeping
    unwinder = Unwinder(process)
    stack = unwinder.unwind(registers, process.read)
    wrong, slot = stack.frames[1].pc + 1, stack.frames[0].cfa - 8

    def read(address: int, size: int) -> bytes:
        data = bytearray(process.read(address, size))
        if address <= slot < address + size:
            data[slot - address : slot - address + 8] = wrong.to_bytes(8, "little")
        return bytes(data)

    unwound = unwinder.unwind(registers, read)
    assert not unwound.complete
    assert unwound.frames[1] == Frame(wrong, 0, True)
    assert "no call before" in unwound.reason


@settings(max_examples=60, deadline=timedelta(seconds=5))
@given(st.randoms(use_true_random=False), st.booleans())
def test_any_stack_ends(
    sleeping: tuple[Process, Registers], random: Random, plausible: bool
) -> None:
    """Words that lead anywhere, or to where calls do return to: there is an end, and no error."""
    process, registers = sleeping
    unwinder = Unwinder(process)
    words = [registers.rsp + 8 * n for n in range(64)]
    for module in process.modules if plausible else ():
        text = next(m for m in module.mappings if "x" in m.protection)
        words += [random.randrange(text.start, text.end) for _ in range(200)]
        words += [frame.pc for frame in unwinder.unwind(registers, process.read).frames]

    def read(address: int, size: int) -> bytes:
        if not random.randrange(100):
            raise OSError(14, "not mapped")
        return b"".join(random.choice(words).to_bytes(8, "little") for _ in range(-(-size // 8)))

    for _ in range(20):
        fake = FakeRegisters(**{name: random.choice(words) for name in DWARF_REGISTERS})
        stack = unwinder.unwind(fake, read, limit=300)
        assert stack.frames[0].pc == fake.rip
        assert bool(stack.reason) != stack.complete
        assert len(stack.frames) <= 301


def test_a_return_address_of_0_is_not_taken_for_the_end(
    sleeping: tuple[Process, Registers],
) -> None:
    process, registers = sleeping
    slot = Unwinder(process).unwind(registers, process.read).frames[0].cfa - 8

    def read(address: int, size: int) -> bytes:
        data = bytearray(process.read(address, size))
        if address <= slot < address + size:
            data[slot - address : slot - address + 8] = bytes(8)
        return bytes(data)

    stack = Unwinder(process).unwind(registers, read)
    assert not stack.complete
    assert stack.frames[1:] == (Frame(0, 0, True),)


# ---- libraries that come and go ----

LIBRARY = """
#include <unistd.h>
int work(void) { char byte; return read(0, &byte, 1) + 1; }
"""
LOADER = """
import ctypes, os, sys
print("READY pid=%d" % os.getpid(), flush=True)
for line in iter(lambda: os.read(0, 100), b""):
    command, _, path = line.decode().strip().partition(" ")
    library = ctypes.CDLL(path)
    print("{}", flush=True)
    library.work()
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))
    print("{}", flush=True)
"""


def test_libraries_come_and_go(tmp_path: Path) -> None:
    paths = []
    for name, more in (("one", ""), ("two", "int pad(void) { return 1; }")):
        source = tmp_path / f"{name}.c"
        source.write_text(more + LIBRARY)
        paths.append(tmp_path / f"{name}.so")
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", paths[-1], source], check=True)
    with started([sys.executable, "-c", LOADER]) as program, Process(program.pid) as process:
        unwinder = Unwinder(process)
        process.modules  # noqa: B018 - those of before
        for path in paths:
            program.ask(f"load {path}")
            wait_until(partial(is_in, program.pid, path.name, unwinder, process), "asleep in work")
            program.ask("")


def is_in(pid: int, library: str, unwinder: Unwinder, process: Process) -> bool:
    unwinder.follow(procfs.mappings(pid))
    with undisturbed(), Hold(pid) as hold:
        stack = unwinder.unwind(hold.threads[pid].registers, process.read)
    return stack.complete and any(
        "work+" in name and library in name for name in names(process, stack)
    )


# ---- cost ----


def test_a_warm_frame_costs_microseconds() -> None:
    """Generous, as the machine may be busy; bench/unwind.py measures."""
    with running("inside", "recursive") as program:
        program.ask("enter")
        with Process(program.pid) as process:
            unwinder = Unwinder(process)
            with undisturbed(), Hold(program.pid) as hold:
                held = [thread.registers for thread in hold.threads.values()]
                best = float("inf")
                for _ in range(20):
                    began = time.perf_counter()
                    stacks = [unwinder.unwind(registers, process.read) for registers in held]
                    best = min(best, time.perf_counter() - began)
        assert best / sum(len(stack.frames) for stack in stacks) < 100e-6
        program.ask("leave")

# SPDX-License-Identifier: GPL-2.0-or-later
"""A proof holds only as long as a stack has the same frames, whatever else changes on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from hotpatch.arch.frames import DWARF_REGISTERS
from hotpatch.arch.registers import Registers
from hotpatch.linux.priority import undisturbed
from hotpatch.linux.threads import Hold
from hotpatch.process.image import Process
from hotpatch.quiescence.proof import Proof, Shape, prove
from hotpatch.quiescence.unwind import Unwinder
from tests.quiescence.conftest import Compile
from tests.support.programs import Program, executable, started

WORD = 8
MORE = (1, WORD, 4096)  # what is added to a word or register to make it another
FRAME = 1024  # more than one of these programs has, that of a signal included
FAR = 65536  # from one stack to another, at least


class Still:
    """A thread as it was in a stop, whose stacks can be changed."""

    def __init__(self, process: Process, registers: Registers, unwinder: Unwinder) -> None:
        self.registers = registers.copy()
        self._process = process
        self.pieces: dict[int, bytearray] = {}
        ends = [frame.cfa for frame in unwinder.unwind(registers, process.read).frames]
        start = registers.rsp - 128 & -WORD
        for end, following in pairwise([*ends, 0]):
            if not end <= following < end + FAR:
                size = end - start + (FRAME if following else 0) & -WORD
                self.pieces[start] = bytearray(process.read(start, size))
                start = following - FRAME

    def read(self, address: int, size: int) -> bytes:
        for start, content in self.pieces.items():
            if start <= address and address + size <= start + len(content):
                return bytes(content[address - start :][:size])
            if address < start + len(content) and start < address + size:
                raise OSError(14, "not all of it is in the copy")
        return self._process.read(address, size)

    def has(self, proof: Proof) -> bool:
        try:
            words = b"".join(self.read(address, size) for address, size in proof.pieces)
        except OSError:
            return False
        return proof.has_registers(self.registers) and proof.has_words(words)

    def words_changed(self) -> Iterator[int]:
        """Change one word after the other; yields its address while it is another."""
        for start, content in self.pieces.items():
            for at in range(0, len(content), WORD):
                was = bytes(content[at : at + WORD])
                for more in MORE:
                    other = int.from_bytes(was, "little") + more & (1 << 64) - 1
                    content[at : at + WORD] = other.to_bytes(WORD, "little")
                    yield start + at
                content[at : at + WORD] = was

    def registers_changed(self) -> Iterator[str]:
        for name in DWARF_REGISTERS:
            was = getattr(self.registers, name)
            for more in MORE:
                setattr(self.registers, name, was + more & (1 << 64) - 1)
                yield name
            setattr(self.registers, name, was)


@contextmanager
def stopped(program: Program) -> Iterator[tuple[Unwinder, list[Still]]]:
    with Process(program.pid) as process:
        unwinder = Unwinder(process)
        with undisturbed(), Hold(program.pid) as hold:
            threads = [
                Still(process, thread.registers, unwinder) for thread in hold.threads.values()
            ]
        yield unwinder, threads


def check(unwinder: Unwinder, still: Still, shape: Shape | None = None) -> Shape:
    """Check every word and register against unwinding anew; return the shape, of another or its."""
    shape = shape or prove(unwinder, still.registers, still.read)
    assert shape is not None and shape.fits(still.registers)
    proof = Proof(shape, still.registers)
    assert still.has(proof)
    assert proof.stack == unwinder.unwind(still.registers, still.read)
    for changed in (still.words_changed, still.registers_changed):
        for what in changed():
            if still.has(proof):
                assert unwinder.unwind(still.registers, still.read) == proof.stack, what
    assert still.has(proof)
    return shape


PROGRAMS = {
    "deep": ["deep", "1", "10", "1", "0"],
    "inside": ["deep", "0", "10", "0", "1"],
    **{mode: ["inside", mode] for mode in ("recursive", "signal", "altstack")},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_proof_fails_with_every_change_of_the_frames(name: str) -> None:
    executable_name, *arguments = PROGRAMS[name]
    with started([executable(executable_name), *arguments]) as program:
        program.expect_progress()
        if executable_name == "inside":
            program.ask("enter")
        with stopped(program) as (unwinder, threads):
            shapes = [check(unwinder, still) for still in threads]
    assert all(shape.complete for shape in shapes)


OPTIONS = ["-fno-omit-frame-pointer", "-O0", "-mstackrealign"]


@pytest.mark.parametrize("option", OPTIONS)
def test_so_it_does_with_frame_pointers(option: str, compiled: Compile) -> None:
    path = compiled("still.c", "-O2", option)
    with started([path]) as program, stopped(program) as (unwinder, threads):
        shapes = [check(unwinder, still) for still in threads]
    assert all(shape.complete for shape in shapes)
    assert [len(shape.pcs) > 10 for shape in shapes].count(True) == 3
    assert [shape.movable for shape in shapes].count(True) == 1  # that of the main thread


@pytest.mark.parametrize("option", OPTIONS)
def test_a_shape_serves_for_other_threads(option: str, compiled: Compile) -> None:
    path = compiled("still.c", "-O2", option, "-DPLAIN")
    with started([path]) as program, stopped(program) as (unwinder, threads):
        deep = [t for t in threads if len(unwinder.unwind(t.registers, t.read).frames) > 10]
        shape = check(unwinder, deep[0])
        assert shape.movable
        assert len({still.registers.rsp for still in deep}) == 3
        for still in deep[1:]:
            check(unwinder, still, shape)


def test_a_shape_is_that_of_one_way_to_the_place() -> None:
    with started([executable("deep"), "2", "7", "0", "1"]) as program:
        program.expect_progress()
        with stopped(program) as (unwinder, threads):
            shapes = [prove(unwinder, still.registers, still.read) for still in threads]
            for still in threads:
                fitting = [s for s in shapes if s is not None and s.fits(still.registers)]
                stacks = {
                    Proof(shape, still.registers).stack
                    for shape in fitting
                    if still.has(Proof(shape, still.registers))
                }
                assert stacks == {unwinder.unwind(still.registers, still.read)}


def test_local_variables_do_not_matter() -> None:
    command = [executable("deep"), "1", "50", "0", "0"]
    with started(command) as program:
        program.expect_progress()
        with stopped(program) as (unwinder, threads):
            (still,) = (t for t in threads if sum(map(len, t.pieces.values())) > 10_000)
            shape = prove(unwinder, still.registers, still.read)
            assert shape is not None and shape.complete
            proof = Proof(shape, still.registers)
            decisive = {address for address in still.words_changed() if not still.has(proof)}
    assert len(decisive) == len(shape.pcs) - 1  # the return addresses

# SPDX-License-Identifier: GPL-2.0-or-later
"""Several patches of one function: on top of each other, and taken out in any order."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import permutations
from typing import cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import hotpatch
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.redirect.entry import Entry, Stretch
from hotpatch.redirect.sites import crosses_page
from hotpatch.update.chain import is_armed, is_begun
from tests.support.compiled import CompileShared
from tests.support.programs import PROGRAMS, Program, patch, running
from tests.update.judging import expect_answer, refused, regions, traces
from tests.update.leftovers import revert_cleanly

PATCHES = ["answer_2", "answer_3", "answer_original"]
ORDERS = list(permutations(PATCHES))


def answer_of(stack: list[str]) -> int:
    """What answer() says with these patches on top of each other."""
    value = 1
    for name in stack:
        value = value + 10 if name == "answer_original" else int(name[-1])
    return value


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_three_patches_are_reverted_in_any_order(order: tuple[str, ...], simple: Program) -> None:
    simple.expect_progress()
    before = traces(simple.pid)
    stack: list[str] = []
    for name in PATCHES:
        hotpatch.apply(simple.pid, patch(name))
        stack.append(name)
        expect_answer(simple, answer_of(stack))
    for name in order:
        hotpatch.revert(simple.pid, name)
        stack.remove(name)
        expect_answer(simple, answer_of(stack))
        on = [e.record.name for e in hotpatch.patches(simple.pid) if e.switch]
        assert on == stack
    assert traces(simple.pid) == before


def test_the_memory_of_one_in_the_middle_stays_and_is_said_to(simple: Program) -> None:
    for name in PATCHES:
        hotpatch.apply(simple.pid, patch(name))
    (warning,) = hotpatch.revert(simple.pid, "answer_3").warnings
    assert "answer_3 is off" in warning and "answer_original" in warning
    assert len(regions(simple.pid)) == 3
    assert hotpatch.revert(simple.pid, "answer_original").warnings == ()
    assert len(regions(simple.pid)) == 1
    expect_answer(simple, 2)


def test_one_that_was_taken_out_of_the_middle_is_applied_again(simple: Program) -> None:
    for name in ("answer_2", "answer_original"):
        hotpatch.apply(simple.pid, patch(name))
    hotpatch.revert(simple.pid, "answer_2")
    expect_answer(simple, 11)
    hotpatch.apply(simple.pid, patch("answer_2"))
    expect_answer(simple, 2)
    hotpatch.revert(simple.pid)
    expect_answer(simple, 11)
    hotpatch.revert(simple.pid)
    expect_answer(simple, 1)
    assert regions(simple.pid) == []


def test_the_same_patch_twice(simple: Program) -> None:
    hotpatch.apply(simple.pid, patch("answer_2"))
    before = traces(simple.pid)
    with refused("answer_2", "applied already", "hotpatch list"):
        hotpatch.apply(simple.pid, patch("answer_2"))
    assert traces(simple.pid) == before
    expect_answer(simple, 2)


def test_a_patch_that_is_not_there(simple: Program) -> None:
    with refused("no patch applied"):
        hotpatch.revert(simple.pid)
    hotpatch.apply(simple.pid, patch("answer_2"))
    with refused("answer_9", "answer_2"):
        hotpatch.revert(simple.pid, "answer_9")
    expect_answer(simple, 2)


def test_thirteen_versions_on_top_of_each_other(
    simple: Program, compile_shared: CompileShared
) -> None:
    """In order of age, and from the oldest on where each is replaced by the next."""
    source = (PROGRAMS / "patches" / "answer.c").read_text()
    versions = {n: str(compile_shared(source, f"-DANSWER={n}")) for n in range(2, 14)}
    simple.expect_progress()
    before = traces(simple.pid)
    for path in versions.values():
        hotpatch.apply(simple.pid, path)
    assert len(regions(simple.pid)) == len(versions)
    for version in reversed(versions):
        expect_answer(simple, version)
        hotpatch.revert(simple.pid)
    assert traces(simple.pid) == before
    hotpatch.apply(simple.pid, versions[2])
    for version in range(3, 14):
        old = hotpatch.patches(simple.pid)[0].record.id
        hotpatch.apply(simple.pid, versions[version])
        hotpatch.revert(simple.pid, old)
        expect_answer(simple, version)
    hotpatch.revert(simple.pid)
    expect_answer(simple, 1)
    assert traces(simple.pid) == before


def text_of(program: Program) -> str:
    """What text() says now; nobody keeps it afterwards."""
    said = str(program.ask("keep")["kept"])
    program.ask("drop")
    return said


def test_one_that_is_only_mapped_does_not_take_another_out() -> None:
    """Something keeps its memory; the same function is patched again, and other commands follow."""
    with running("keeper") as program:
        hotpatch.apply(program.pid, patch("keeper"))
        program.ask("keep")
        assert hotpatch.revert(program.pid).warnings
        hotpatch.apply(program.pid, patch("keeper"))
        for _ in range(2):
            hotpatch.apply(program.pid, patch("answer_2"))
            hotpatch.revert(program.pid)
        assert text_of(program) == "new"
        hotpatch.revert(program.pid)
        assert text_of(program) == "old"
        assert program.expect_progress()["broken"] == 0


def test_below_one_that_is_only_mapped(compile_shared: CompileShared) -> None:
    """Its gate goes on to the one before it, which stays as long; the entry leads to neither."""
    source = (PROGRAMS / "patches" / "keeper.c").read_text()
    first = str(compile_shared(source.replace("new", "first")))
    with running("keeper") as program:
        hotpatch.apply(program.pid, first)
        hotpatch.apply(program.pid, patch("keeper"))
        program.ask("keep")
        assert hotpatch.revert(program.pid).warnings
        warnings = hotpatch.revert(program.pid).warnings
        assert any("leads into it" in warning for warning in warnings), warnings
        assert len(regions(program.pid)) == 2
        hotpatch.apply(program.pid, patch("answer_2"))
        assert text_of(program) == "old"
        revert_cleanly(program)
        assert program.expect_progress()["broken"] == 0


STAYS = """
#include <hotpatch.h>
#include <unistd.h>

typedef int pipe_ends[2];
HOTPATCH_EXTERN_STATIC_DATA("inside.c", pipe_ends, release);
HOTPATCH_EXTERN_STATIC_DATA("inside.c", _Atomic long, inside);

int compute(int depth)
{
    char byte;

    inside++;
    while (read(release[0], &byte, 1) < 0)
        ;
    inside--;
    return depth + 3;
}
HOTPATCH_REPLACE(compute);
"""


def test_who_is_in_one_that_is_only_mapped_is_waited_for(compile_shared: CompileShared) -> None:
    """A probation that failed has turned it off while a thread was in it."""
    with running("inside", "asleep") as program:
        hotpatch.apply(program.pid, str(compile_shared(STAYS)))
        program.ask("enter")
        with Process(program.pid) as process:
            (failed,) = process.patches
            off = struct.pack("<I", ledger.OFF)
            process.memory.write(failed.address + ledger.SWITCH_OFFSET, off)
        with refused("compute", error=hotpatch.Busy):
            hotpatch.apply(program.pid, patch("compute"), timeout=0.3)
        assert program.ask("leave")["result"] == 3
        hotpatch.apply(program.pid, patch("compute"))
        assert program.ask("enter")["result"] == 2
        program.expect_progress()


class Code:
    """Memory with a function's entry and an island, read as a process's is."""

    def __init__(self, entry: Entry) -> None:
        self.bytes: dict[int, int] = {}
        self.write(ledger.Write(*write) for write in entry.disarm_writes())

    def write(self, writes: Iterable[ledger.Write]) -> None:
        for write in writes:
            self.bytes.update(enumerate(write.data, write.address))

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.bytes[address + offset] for offset in range(size))


def redirection(entry: Entry, gate: int) -> ledger.Function:
    """How the ledger has the redirection of an entry to a gate."""
    writes = (entry.arm_writes(gate), entry.disarm_writes())
    arm, disarm = (tuple(ledger.Write(*write) for write in part) for part in writes)
    nothing = (0, 0)
    return ledger.Function(
        "f", "", entry.address, 0, (), (gate, 64), (), 0, 0, nothing, (), arm, disarm, False
    )


@settings(max_examples=1000)
@given(
    st.integers(0x40_0FF0, 0x40_1000),  # across a page boundary, too
    st.one_of(st.none(), st.integers(0x40_1010, 0x40_1030), st.integers(0x40_0FC0, 0x40_0FE0)),
    st.permutations([0x41_0000, 0x41_0040, 0x51_0000]),
    st.booleans(),
)
def test_what_is_begun_and_what_is_not(
    place: int, padding: int | None, gates: list[int], chained: bool
) -> None:
    """A patch knows its own doing after each write; that of another one never."""
    assume(not chained or padding or not crosses_page(place + 1, place + 5))  # refused
    ours, theirs, below = gates
    island = None if padding is None else Stretch(padding, b"\x90" * 5)
    original = b"\x89\xf8\x83\xc0\x01"[: 2 if island else 5]
    entry = Entry("f", place, place, place, original, (), None, (), island)
    first = redirection(entry, below)
    code = Code(entry)
    if chained:  # then what it goes back to is the jump of the one below
        code.write(first.arm)
        jump = code.read(place, len(original))
        entry = entry._replace(
            original=jump, island=island and Stretch(island.address, code.read(island.address, 5))
        )
    function, other = redirection(entry, ours), redirection(entry, theirs)
    process = cast("Process", code)

    untouched = dict(code.bytes)
    for write in (*function.arm, *function.disarm):
        code.write([write])
        assert is_begun(process, function) == (code.bytes != untouched)
    assert code.bytes == untouched
    code.write(other.arm)
    assert not is_begun(process, function)
    assert is_armed(process, other)
    code.write(other.disarm)
    if chained:
        code.write(first.disarm)
        assert not is_begun(process, function)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Several patches of one function: on top of each other, and taken out in any order."""

from __future__ import annotations

from itertools import permutations

import pytest

import hotpatch
from tests.support.compiled import CompileShared
from tests.support.programs import PROGRAMS, Program, patch
from tests.update.judging import expect_answer, refused, regions, traces

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

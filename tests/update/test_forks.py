# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that fork: a child has what its parent had, and is a target of its own from then on."""

from __future__ import annotations

import hotpatch
from tests.support.programs import patch, running
from tests.update.judging import expect_answer, regions


def names(pid: int) -> list[str]:
    """The patches in a process."""
    return [entry.record.name for entry in hotpatch.patches(pid)]


def test_children_forked_after_the_patch_have_it() -> None:
    with running("forker") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        assert program.ask("fork")["child_answer"] == 2
        assert program.ask("grandchild")["child_answer"] == 2
        hotpatch.revert(program.pid)
        assert program.ask("fork")["child_answer"] == 1


def test_a_child_is_reverted_on_its_own() -> None:
    with running("forker") as program:
        program.ask("spawn 1")
        hotpatch.apply(program.pid, patch("answer_2"))
        children = program.ask("spawn 2")["children"]
        assert [child["answer"] for child in children] == [1, 2, 2]
        before, first, second = (child["pid"] for child in children)
        assert [names(pid) for pid in (program.pid, before, first, second)] == [
            ["answer_2"], [], ["answer_2"], ["answer_2"],
        ]  # fmt: skip
        hotpatch.revert(first)
        assert [c["answer"] for c in program.ask("children")["children"]] == [1, 1, 2]
        assert regions(first) == []
        expect_answer(program, 2)
        hotpatch.revert(program.pid)
        expect_answer(program, 1)
        assert [c["answer"] for c in program.ask("children")["children"]] == [1, 1, 2]
        hotpatch.revert(second)
        assert [c["answer"] for c in program.ask("children")["children"]] == [1, 1, 1]


def test_a_child_is_patched_on_its_own() -> None:
    with running("forker") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        child = program.ask("spawn 1")["children"][0]["pid"]
        hotpatch.apply(child, patch("answer_3"))
        assert program.ask("children")["children"][0]["answer"] == 3
        expect_answer(program, 2)
        assert (names(program.pid), names(child)) == (["answer_2"], ["answer_2", "answer_3"])
        hotpatch.revert(child, "answer_2")
        hotpatch.revert(child)
        assert program.ask("children")["children"][0]["answer"] == 1
        assert regions(child) == []


def test_a_child_forked_between_two_patches_of_a_function() -> None:
    with running("forker") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        hotpatch.apply(program.pid, patch("answer_3"))
        child = program.ask("spawn 1")["children"][0]["pid"]
        hotpatch.revert(program.pid)
        hotpatch.revert(program.pid)
        expect_answer(program, 1)
        assert program.ask("children")["children"][0]["answer"] == 3
        hotpatch.revert(child)
        assert program.ask("children")["children"][0]["answer"] == 2
        hotpatch.revert(child)
        assert program.ask("children")["children"][0]["answer"] == 1

# SPDX-License-Identifier: GPL-2.0-or-later
"""Update points: an event loop is replaced together with what it calls."""

from __future__ import annotations

import pytest

import hotpatch
from tests.cli.running import hotpatch as command
from tests.support.programs import patch, running
from tests.update.judging import expect_answer, refused, untouched


@pytest.mark.parametrize("period_us", ["1000", "300000"])
def test_a_loop_is_caught_where_its_author_says(period_us: str) -> None:
    with running("crowd", "1", "rounds", period_us) as program:
        for _ in range(3):
            result = hotpatch.apply(program.pid, patch("crowd_point"))
            assert [function.name for function in result.functions] == ["inner", "work"]
            expect_answer(program, 2)
            (entry,) = hotpatch.patches(program.pid)
            points = [function.name for function in entry.record.functions if function.point]
            assert points == ["pause_point"]
            hotpatch.revert(program.pid)
            expect_answer(program, 1)
        assert not hotpatch.patches(program.pid)


def test_several_loops_wait_for_each_other() -> None:
    with running("crowd", "4", "rounds", "5000") as program:
        hotpatch.apply(program.pid, patch("crowd_point"))
        expect_answer(program, 2)
        hotpatch.revert(program.pid)
        expect_answer(program, 1)


def test_without_a_point_the_loop_is_named_at_once() -> None:
    with (
        running("crowd", "2", "rounds", "5000") as program,
        untouched(program),
        refused("work never returns", "crowd_functions.c:", "--update-point", error=hotpatch.Busy),
    ):
        hotpatch.apply(program.pid, patch("crowd"))


def test_a_point_can_be_named_when_the_patch_is_applied() -> None:
    with running("crowd", "2", "rounds", "5000") as program:
        options = ("--json", "--update-point", "pause_point", str(program.pid), patch("crowd"))
        assert command("check", *options).json["update_points"] == ["pause_point"]
        done = command("apply", *options)
        assert done.code == 0, done.err
        expect_answer(program, 2)
        hotpatch.revert(program.pid)
        hotpatch.apply(program.pid, patch("crowd"), update_points=["pause_point"])
        expect_answer(program, 2)


def test_a_thread_that_does_not_come_to_the_point_is_named() -> None:
    with running("crowd", "2", "rounds", "5000") as program, untouched(program):
        with refused("came to no update point", error=hotpatch.Busy):
            hotpatch.apply(program.pid, patch("crowd"), timeout=1, update_points=["take_lock"])
        with refused("take_lok", "take_lock", error=hotpatch.Refused):
            hotpatch.apply(program.pid, patch("crowd"), update_points=["take_lok"])


def test_a_point_may_be_replaced_as_well() -> None:
    with running("crowd", "2", "rounds", "5000") as program:
        hotpatch.apply(program.pid, patch("crowd"), update_points=["inner"])
        expect_answer(program, 2)
        hotpatch.revert(program.pid)
        expect_answer(program, 1)

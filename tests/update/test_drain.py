# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that some thread is in at every instant: callers are made to wait."""

from __future__ import annotations

import os
import signal

import pytest

import hotpatch
from hotpatch.update.result import Result
from tests.support.programs import (
    Program,
    executable,
    patch,
    running,
    started,
    wait_until,
)
from tests.update.judging import expect_answer, refused, regions, untouched

THREADS = "8"
MODES = {  # how many threads, and for how many us a call
    "spinning": ("8", "2000"),
    "sleeping": ("8", "2000"),
    "nested": ("4", "2000"),
    "recursive": ("4", "2000"),
    "signals": ("8", "2000"),
    "locking": ("4", "500"),
}
PATIENCE = 60  # seconds, on a machine with more threads than processors


def drains(result: Result) -> list[int]:
    """For how long callers were made to wait, in µs."""
    return [stop.us for stop in result.stops if stop.phase == "drain"]


def expect_version(program: Program, version: int) -> None:
    """Check that all threads work on in this version, and that no call was of two."""
    assert expect_answer(program, version)["mixed"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_calls_run_out_while_new_ones_wait(mode: str) -> None:
    threads, us = MODES[mode]
    with running("crowd", threads, mode, us) as program:
        for _ in range(2):
            result = hotpatch.apply(program.pid, patch("crowd"), timeout=PATIENCE)
            assert result.pause_us >= max(drains(result), default=0)
            expect_version(program, 2)
            result = hotpatch.revert(program.pid, timeout=PATIENCE)
            expect_version(program, 1)
        if mode == "signals":
            signals = program.ask()["signals"]
            wait_until(lambda: program.ask()["signals"] > signals, "signals go on")


@pytest.mark.parametrize(("max_pause_ms", "most_us"), [(20.0, 20_000), (4.0, 0)])
def test_no_caller_waits_longer_than_the_pause_that_is_allowed(
    max_pause_ms: float, most_us: int
) -> None:
    """It may succeed all the same: threads that have waited together go on together."""
    with running("crowd", THREADS, "sleeping", "60000") as program:
        for _ in range(3):
            try:
                result = hotpatch.apply(
                    program.pid, patch("crowd"), timeout=1, max_pause_ms=max_pause_ms
                )
            except hotpatch.Busy as busy:
                assert most_us or "made to wait" not in busy.reason
            else:
                assert max(drains(result), default=0) <= most_us
                expect_version(program, 2)
                hotpatch.revert(program.pid, timeout=PATIENCE)
            expect_version(program, 1)
        result = hotpatch.apply(program.pid, patch("crowd"), timeout=PATIENCE)
        assert drains(result)
        assert result.pause_us == max(stop.us for stop in result.stops)


def test_what_a_filter_forbids_is_not_done() -> None:
    with running("crowd", THREADS, "filtered", "2000") as program:
        with untouched(program), refused("work", error=hotpatch.Busy) as caught:
            hotpatch.apply(program.pid, patch("crowd"), timeout=1)
        assert "made to wait" not in caught.value.reason


def test_a_target_whose_clock_is_another() -> None:
    """The deadline is a time of the target's clock (time_namespaces(7)): no sooner, no later."""
    crowd = [executable("crowd"), THREADS, "sleeping", "2000"]
    unshare = ["unshare", "--time", "--monotonic", "100000", "--fork", "--kill-child"]
    with started([*unshare, *crowd]) as program:
        result = hotpatch.apply(program.pid, patch("crowd"), timeout=PATIENCE)
        assert drains(result)
        expect_version(program, 2)
        hotpatch.revert(program.pid, timeout=PATIENCE)
        expect_version(program, 1)


@pytest.mark.parametrize("mode", ["spinning", "sleeping", "nested"])
def test_a_patcher_that_dies_leaves_nobody_waiting(mode: str) -> None:
    with running("crowd", "4", mode, "20000") as program:
        child = os.fork()
        if not child:
            with open(os.devnull, "w", encoding="ascii") as null:
                os.dup2(null.fileno(), 2)
            hotpatch.apply(program.pid, patch("crowd"), timeout=PATIENCE)
            os._exit(0)
        wait_until(
            lambda: any(p.waiting for p in hotpatch.patches(program.pid)), "a drain", PATIENCE
        )
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        expect_version(program, 1)
        program.expect_progress()
        hotpatch.apply(program.pid, patch("crowd"), timeout=PATIENCE)
        expect_version(program, 2)
        hotpatch.revert(program.pid, timeout=PATIENCE)
        expect_version(program, 1)
        assert not hotpatch.patches(program.pid)
        assert not regions(program.pid)

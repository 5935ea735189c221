# SPDX-License-Identifier: GPL-2.0-or-later
"""An update waits until no thread is inside what it replaces; else it says who is, and undoes."""

from __future__ import annotations

import pytest

import hotpatch
from hotpatch import Progress
from tests.support.compiled import CompileShared
from tests.support.proc import threads
from tests.support.programs import Program, patch, running, wait_until
from tests.update.judging import expect_answer, refused, regions, untouched

SHORT = 0.2
INSIDE = {  # mode of the program: the call that the blocker sleeps in
    "asleep": "read",
    "recursive": "read",
    "signal": "read",
    "altstack": "read",
    "handler": "read",
    "spinning": "running",
}


@pytest.mark.parametrize("mode", INSIDE)
def test_a_thread_inside_is_named_and_waited_for(mode: str) -> None:
    with running("inside", mode) as program:
        program.ask("enter")
        with untouched(program), refused("compute", error=hotpatch.Busy) as caught:
            hotpatch.apply(program.pid, patch("compute"), timeout=SHORT)
        assert isinstance(caught.value, hotpatch.Busy)
        (blocker,) = caught.value.blockers
        assert blocker.tid in threads(program.pid)
        assert (blocker.function, blocker.syscall) == ("compute", INSIDE[mode])
        assert any("compute" in frame for frame in blocker.frames)
        assert program.ask("leave")["result"] == 1
        hotpatch.apply(program.pid, patch("compute"))
        assert program.ask("enter")["result"] == 2
        expect_answer(program, 1)


def test_it_is_applied_as_soon_as_the_thread_leaves() -> None:
    seen: list[Progress] = []
    with running("inside", "asleep") as program:
        program.ask("enter")

        def leave(progress: Progress) -> None:
            seen.append(progress)
            if len(seen) == 3:
                assert program.ask("leave")["result"] == 1

        result = hotpatch.apply(program.pid, patch("compute"), timeout=60, on_progress=leave)
        assert result.attempts > 3
        assert seen[0].blockers == ("compute",) and seen[0].attempts == 1
        assert program.ask("enter")["result"] == 2


def test_a_function_busy_in_some_thread_at_every_instant() -> None:
    with running("inside", "busy") as program:
        with untouched(program), refused("compute", error=hotpatch.Busy):
            hotpatch.apply(program.pid, patch("compute"), timeout=0)
        result = hotpatch.apply(program.pid, patch("compute"))
        assert "drain" in {stop.phase for stop in result.stops}
        wait_until(lambda: program.ask()["result"] == 2, "the new answer")


def test_a_function_that_never_returns() -> None:
    with running("inside", "endless") as program:
        with untouched(program), refused("serve_forever", error=hotpatch.Busy) as caught:
            hotpatch.apply(program.pid, patch("inside"), timeout=SHORT)
        assert isinstance(caught.value, hotpatch.Busy)
        assert {blocker.function for blocker in caught.value.blockers} == {"serve_forever"}
        hotpatch.apply(program.pid, patch("compute"))
        expect_answer(program, 1)


def test_a_thread_asleep_within_the_bytes_of_the_jump() -> None:
    with running("inside", "entry") as program:
        with refused("sleep_in_entry", error=hotpatch.Busy):
            for _ in range(20):  # it is out of them for a moment every 20 ms
                hotpatch.apply(program.pid, patch("inside"), timeout=0)
                hotpatch.revert(program.pid)
        assert program.ask("leave")["result"] in (1, 2)
        hotpatch.apply(program.pid, patch("inside"))
        program.ask("enter")
        wait_until(lambda: program.ask()["result"] == 2, "the new answer")


def test_a_thread_inside_the_new_code_blocks_the_revert(compile_shared: CompileShared) -> None:
    path = compile_shared(
        """
        #include <hotpatch.h>
        int compute(int depth) { return HOTPATCH_ORIGINAL(compute)(depth) + 10; }
        HOTPATCH_REPLACE(compute);
        """
    )
    with running("inside", "asleep") as program:
        hotpatch.apply(program.pid, str(path))
        program.ask("enter")
        with refused("new code of compute", error=hotpatch.Busy):
            hotpatch.revert(program.pid, timeout=SHORT)
        (entry,) = hotpatch.patches(program.pid)
        assert entry.switch == 1
        assert program.ask("leave")["result"] == 11
        hotpatch.revert(program.pid)
        program.ask("enter")
        assert program.ask("leave")["result"] == 1
        assert regions(program.pid) == []


def test_a_limit_of_the_pause_that_is_too_small() -> None:
    with running("threads", "50") as program:
        program.expect_progress()
        with untouched(program), refused("--max-pause", error=hotpatch.Busy):
            hotpatch.apply(program.pid, patch("answer_2"), timeout=SHORT, max_pause_ms=0.001)
        expect_answer(program, 1)


def test_a_limit_of_the_pause_that_is_kept(simple: Program) -> None:
    result = hotpatch.apply(simple.pid, patch("answer_2"), timeout=60, max_pause_ms=20)
    assert result.pause_us <= 20_000
    expect_answer(simple, 2)
    with refused("--max-pause", error=hotpatch.Busy):
        hotpatch.revert(simple.pid, timeout=SHORT, max_pause_ms=0.001)
    expect_answer(simple, 2)
    hotpatch.revert(simple.pid)
    expect_answer(simple, 1)


def test_many_threads_with_stale_words() -> None:
    """None of them is in the way, and it doesn't take a stop for each to see that."""
    with running("deep", "300", "50", "300", "1") as program:
        program.expect_progress()
        with untouched(program), refused("1 thread(s) stayed", error=hotpatch.Busy) as caught:
            hotpatch.apply(program.pid, patch("compute"), timeout=2)
        assert isinstance(caught.value, hotpatch.Busy)
        (blocker,) = caught.value.blockers
        assert blocker.tid not in program.ask()["tids"]
        assert program.ask("leave")["result"] == 1
        result = hotpatch.apply(program.pid, patch("compute"))
        assert result.attempts <= 5
        assert program.ask()["result"] == 2
        expect_answer(program, 1)

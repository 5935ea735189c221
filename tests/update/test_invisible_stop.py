# SPDX-License-Identifier: GPL-2.0-or-later
"""What a thread has is what it had: registers, signals, sleeps, sequences, locks, children."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

import hotpatch
from hotpatch.update import moment
from tests.support.proc import status_field
from tests.support.programs import Program, executable, patch, running, wait_until
from tests.update.cycles import PAIRS, held_us, pairs
from tests.update.judging import Reply, expect_answer, refused

FEW = max(3, PAIRS // 6)
STUCK_US = 200_000  # after which a stop is given up


def test_registers_of_every_kind_are_kept() -> None:
    with running("registers") as program:
        pairs(program.pid, PAIRS)
        reply = expect_answer(program, 1)
        assert reply["mismatches"] == 0, reply["detail"]
        assert reply["main_eintr"] == 0


def lateness(program: Program, action: Callable[[], int]) -> dict[str, int]:
    """How late each timed call returned during `action`, less the µs that that returns."""
    program.ask("reset")
    held = action()
    program.expect_progress()
    return {c["call"]: c["late_us_max"] - held for c in program.ask()["calls"] if c["timed"]}


def test_sleeping_calls_end_in_their_time_and_by_nothing_else() -> None:
    """Late is what is later than in a control run, where the same work is done without a stop."""
    with running("sleepers") as program:
        pid = program.pid

        def control() -> int:
            for _ in range(FEW * 8):
                hotpatch.check(pid, patch("answer_2"))
            return 0

        def stopped() -> int:
            held = held_us(pairs(pid, FEW))
            faults = {
                c["call"]: c
                for c in program.ask()["calls"]
                if c["eintr"] or c["wrong"] or c["early_us"]
            }
            assert faults == {}
            return held

        controls, rounds = [], []
        for _ in range(3):  # a machine's own hiccup is not in each of them; a defect is
            controls.append(lateness(program, control))
            rounds.append(lateness(program, stopped))
        allowed = max(max(one.values()) for one in controls)
        late = {call: min(one[call] for one in rounds) for call in rounds[0]}
        assert {call: us for call, us in late.items() if us > allowed} == {}
        assert expect_answer(program, 1)["main_eintr"] == 0


def lost_or_duplicated(reply: Reply) -> list[Reply]:
    """The timers and streams with a fault."""
    return [e for e in reply["timers"] + reply["streams"] if e["lost"] or e["duplicated"]]


def test_no_signal_of_a_timer_is_lost_or_duplicated() -> None:
    """A signal that comes as a thread is about to stop uses up the interrupt: it is sent again."""
    with running("timer") as program:
        results = pairs(program.pid, PAIRS)
        reply = expect_answer(program, 1)
        assert lost_or_duplicated(reply) == []
        assert reply["waits_interrupted"] == 0
        assert max(stop.us for result in results for stop in result.stops) < STUCK_US


def test_every_child_is_reaped_through_a_storm_of_sigchld() -> None:
    with running("sigchld") as program:
        pairs(program.pid, FEW)
        reply = expect_answer(program, 1)
        assert (reply["unreaped"], reply["wrong_status"]) == (0, 0)


def test_restartable_sequences_lose_no_addition() -> None:
    with running("rseq") as program:
        pairs(program.pid, FEW)
        reply = expect_answer(program, 1)
        assert reply["added"] == reply["counted"]


def test_threads_that_do_nothing_but_malloc() -> None:
    with running("mallocs") as program:
        pairs(program.pid, PAIRS)
        assert expect_answer(program, 1)["corrupted"] == 0


def test_threads_that_do_nothing_but_load_libraries() -> None:
    with running("loaders") as program:
        pairs(program.pid, PAIRS)
        assert expect_answer(program, 1)["failed"] == 0


def test_threads_that_start_and_end_all_the_time() -> None:
    with running("churn") as program:
        pairs(program.pid, FEW)
        assert expect_answer(program, 1)["wrong"] == 0


def test_a_leader_that_has_ended() -> None:
    with running("leaderless") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        expect_answer(program, 2)
        hotpatch.revert(program.pid)
        expect_answer(program, 1)


def test_a_thread_in_vfork_is_waited_for() -> None:
    with running("vforker", "20") as program:
        hotpatch.apply(program.pid, patch("answer_2"), timeout=60)
        expect_answer(program, 2)
        hotpatch.revert(program.pid, timeout=60)
        assert expect_answer(program, 1)["wrong_status"] == 0


def test_a_thread_that_stays_in_vfork_is_named() -> None:
    with running("vforker", "60000") as program:
        wait_until(lambda: bool(program.ask()["in_vfork"]), "a thread in vfork")
        with refused("vfork", error=hotpatch.Busy):
            hotpatch.apply(program.pid, patch("answer_2"), timeout=0.2)
        expect_answer(program, 1)


@pytest.mark.parametrize("timeout", [0.05, 60])
def test_a_thread_that_enters_vfork_as_it_is_stopped(
    timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not stop before its child ends: too late for one try, or for all of them."""
    monkeypatch.setattr(moment, "_in_vfork", lambda *_: None)
    with running("vforker", "300") as program:
        wait_until(lambda: bool(program.ask()["in_vfork"]), "a thread in vfork")
        try:
            hotpatch.apply(program.pid, patch("answer_2"), timeout=timeout)
        except hotpatch.Busy as busy:
            assert "can't be stopped" in busy.reason
        else:
            hotpatch.revert(program.pid, timeout=60)
        assert set(status_field(program.pid, "TracerPid")) == {"0"}
        seen = program.ask()["vforks"]
        wait_until(lambda: program.ask()["vforks"] > seen + 1, "the thread works on")
        reply = expect_answer(program, 1)
        assert (reply["wrong_status"], reply["eintr"], reply["early"]) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_many_sleeping_threads(count: int) -> None:
    with running("threads", str(count)) as program:
        result = hotpatch.apply(program.pid, patch("answer_2"))
        assert result.threads == count + 1
        expect_answer(program, 2)
        hotpatch.revert(program.pid)
        reply = expect_answer(program, 1)
        assert (reply["eintr"], reply["early"], reply["stale"]) == (0, 0, 0)


def test_a_parent_sees_nothing_of_an_update() -> None:
    with running("parent", executable("threads"), "3") as program:
        pairs(program.ask()["child"], FEW)
        reply = program.ask("child ask")
        assert [reply[name] for name in ("sigchld", "stopped", "continued")] == [0, 0, 0]
        assert (reply["reply"]["eintr"], reply["reply"]["main_eintr"]) == (0, 0)


def test_a_target_under_job_control_stays_stopped_and_is_patched() -> None:
    with running("parent", executable("threads"), "3") as program:
        child = program.ask()["child"]
        os.kill(child, signal.SIGSTOP)
        wait_until(lambda: program.ask()["stopped"] == 1, "the stop")
        hotpatch.apply(child, patch("answer_2"))
        # A thread that is let go needs a processor to get back into its stop.
        wait_until(
            lambda: {state[0] for state in status_field(child, "State")} == {"T"}, "the stop again"
        )
        reply = program.ask()
        assert [reply[name] for name in ("sigchld", "stopped", "continued")] == [1, 1, 0]
        os.kill(child, signal.SIGCONT)
        wait_until(lambda: not program.ask("child ask")["reply"]["stale"], "the new answer")
        reply = program.ask("child ask")
        assert reply["reply"]["answer"] == 2
        assert (reply["sigchld"], reply["stopped"], reply["continued"]) == (2, 1, 1)
        hotpatch.revert(child)
        wait_until(lambda: not program.ask("child ask")["reply"]["stale"], "the old answer")
        assert program.ask("child ask")["reply"]["answer"] == 1

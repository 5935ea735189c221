# SPDX-License-Identifier: GPL-2.0-or-later
"""A patcher that dies, or comes too late, while it gives a patch's memory back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

import hotpatch
from hotpatch.arch.registers import Registers
from hotpatch.linux import procfs, remote
from hotpatch.linux.threads import Thread
from hotpatch.update import snapshot
from hotpatch.update.session import Session
from tests.support.proc import status_field
from tests.support.programs import ROOT, patch, running, tool, wait_until
from tests.update.judging import expect_answer
from tests.update.leftovers import children, complaints, revert_cleanly, state

DIES_SEARCHING = """
import os, sys, hotpatch
from hotpatch.update import snapshot
snapshot.look_through = lambda *_: os.kill(os.getpid(), 9)
hotpatch.revert(int(sys.argv[1]))
"""


def die_searching(pid: int) -> None:
    """Have a patcher revert, and die when it has just taken its snapshot."""
    done = subprocess.run([sys.executable, "-c", DIES_SEARCHING, str(pid)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_next_patcher_reaps_what_a_dead_one_left() -> None:
    with running("mallocs") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        die_searching(program.pid)
        (child,) = children(program.pid)
        wait_until(lambda: state(child) == "Z", "the snapshot ends by itself")
        expect_answer(program, 1)
        assert complaints(hotpatch.apply(program.pid, patch("answer_3"))) == []
        revert_cleanly(program)


MARKED_REVERT = """
import os, sys, hotpatch
from hotpatch.update import unmap
begin = unmap._unmap
unmap._unmap = lambda *arguments: (os.getppid(), begin(*arguments))
hotpatch.revert(int(sys.argv[1]))
"""


def revert_killed(pid: int, point: int) -> tuple[int, str | None]:
    """Run a revert, killed at a call of the unmapping, counted from 1; 0 lets it live.

    Returns how many it made and the name of the one at which it was killed.
    """
    command = [tool("killat"), "--from", "getppid", str(point), "--"]
    command += [sys.executable, "-c", MARKED_REVERT, str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    outcome = json.loads(done.stderr.splitlines()[-1])
    return outcome["calls"], outcome["killed_at"]


def sweep(step: int) -> None:
    """Kill reverts at every `step`-th call that they make to unmap; judge the target after each."""
    with running("mallocs") as program:
        point, killed_at = 1, ""
        while killed_at is not None:
            hotpatch.apply(program.pid, patch("answer_2"))
            _, killed_at = revert_killed(program.pid, point)
            program.expect_progress()
            hotpatch.apply(program.pid, patch("answer_3"))
            assert children(program.pid) == []
            expect_answer(program, 3)
            revert_cleanly(program)
            point += step
        assert set(status_field(program.pid, "TracerPid")) == {"0"}
        assert program.ask()["corrupted"] == 0


def test_death_while_unmapping() -> None:
    sweep(41)


@pytest.mark.sweep
def test_death_at_every_call_while_unmapping() -> None:
    sweep(1)


def test_thread_that_got_tired_of_waiting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patcher that misses the cue for 100 ms must not put the thread back to where it was."""
    blind_until = 0.0
    sleep, run, suitable = procfs.sleep, remote.Borrowed.run, snapshot.suitable

    def blind(pid: int, tid: int) -> procfs.Sleep | None:
        return None if time.perf_counter() < blind_until else sleep(pid, tid)

    def run_unseen(self: remote.Borrowed, *arguments: Any, **registers: int) -> Registers:
        nonlocal blind_until
        blind_until = time.perf_counter() + 0.4
        return run(self, *arguments, limit_ns=300_000_000, **registers)

    def busy(session: Session, *arguments: Any, **options: Any) -> Thread | None:
        return suitable(session, *arguments, condition=not_main, **options)

    def not_main(thread: Thread) -> bool:  # that one only sleeps
        return thread.tid != program.pid

    with running("mallocs") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        with monkeypatch.context() as patched:
            patched.setattr(procfs, "sleep", blind)
            patched.setattr(remote.Borrowed, "run", run_unseen)
            patched.setattr(snapshot, "suitable", busy)
            (why,) = hotpatch.revert(program.pid).warnings
        assert "can't make a child" in why
        hotpatch.apply(program.pid, patch("answer_3"))
        revert_cleanly(program)
        assert expect_answer(program, 1)["corrupted"] == 0


def test_child_that_is_slow_to_end_is_reaped_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """We are its tracer, and live on: nobody else can reap it before we do."""
    with running("mallocs") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        with monkeypatch.context() as patched:
            patched.setattr(snapshot, "end", lambda pid: None)
            (why,) = hotpatch.revert(program.pid).warnings
        assert "has not ended yet" in why
        assert len(children(program.pid)) == 1
        hotpatch.apply(program.pid, patch("answer_3"))
        revert_cleanly(program)
        assert children(program.pid) == []
        assert expect_answer(program, 1)["corrupted"] == 0

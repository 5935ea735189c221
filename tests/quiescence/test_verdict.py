# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is in the way, of many threads with words on their stacks that point into the code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from hotpatch.link.scope import functions_named
from hotpatch.linux import procfs
from hotpatch.linux.priority import undisturbed
from hotpatch.linux.threads import Hold, Thread
from hotpatch.process.image import Process
from hotpatch.quiescence.proofs import Proofs
from hotpatch.quiescence.ranges import Range, Ranges
from hotpatch.quiescence.stacks import Scanner, StackMap
from hotpatch.quiescence.verdict import Blocked, Judge
from tests.support.proc import threads
from tests.support.programs import Program, running, wait_until


class Court:
    """Verdicts on one process, about compute()."""

    def __init__(self, process: Process) -> None:
        self.judge = Judge(process)
        self._process = process
        ((module, symbol),) = functions_named(process, "compute", None)
        start = module.bias + symbol.value
        self.ranges = Ranges([Range(start, start + symbol.size + 1, "compute")])

    def stop(self) -> tuple[list[Blocked], dict[int, Thread]]:
        """Stop all threads; return who is in the way, and all of them."""
        mappings = procfs.mappings(self._process.pid)
        stacks = StackMap(self._process.pid, mappings)
        scanner = Scanner(self._process.memory, stacks, self.ranges)
        self.judge.follow(mappings)
        with undisturbed(), Hold(self._process.pid, observer=scanner.add) as hold:
            stopped = dict(hold.threads)
            blocked = self.judge.judge(scanner.hits, stopped, stacks, self.ranges)
        return blocked, stopped

    def forget_proofs(self) -> None:
        """Have no proof of any thread, but know the code."""
        assert self.judge._proofs is not None
        self.judge._proofs.forget()

    def proven(self) -> set[int]:
        """The threads of which there are proofs."""
        assert self.judge._proofs is not None
        return set(self.judge._proofs._proofs)

    def verdict(self) -> list[Blocked]:
        """The same, and learn from it."""
        blocked, stopped = self.stop()
        self.judge.learn(stopped[thread.tid] for thread in blocked)
        return blocked


@contextmanager
def court(*arguments: str) -> Iterator[tuple[Court, Program]]:
    with running("deep", *arguments) as program, Process(program.pid) as process:
        program.expect_progress()  # all have been at the bottom
        yield Court(process), program


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no thread looked at in a stop that nothing is known of."""
    monkeypatch.setattr(Judge, "_look", lambda *_: (None, ()))


def fail(*_: object) -> NoReturn:
    raise AssertionError


def inside(blocked: list[Blocked]) -> set[int]:
    return {thread.tid for thread in blocked if thread.frames}


@pytest.mark.usefixtures("no_time")
def test_the_second_stop_knows_of_every_thread() -> None:
    with court("200", "50", "200", "2") as (judges, program):
        workers = set(program.ask()["tids"])
        assert len(judges.verdict()) == 202
        blocked = judges.verdict()
        assert len(blocked) == len(inside(blocked)) == 2
        assert not inside(blocked) & workers
        assert all(judges.ranges.find(a) for thread in blocked for a in thread.addresses)


@pytest.mark.usefixtures("no_time")
def test_what_was_known_of_threads_ends_with_them() -> None:
    with court("1", "10", "0", "3") as (judges, program):
        judges.verdict()
        assert judges.proven() == inside(judges.verdict())
        assert len(judges.proven()) == 3
        program.ask("leave")
        wait_until(lambda: len(threads(program.pid)) == 2, "the end of the others")
        assert judges.verdict() == []
        assert judges.proven() == set()


def test_a_thread_that_has_moved_is_unwound_in_the_stop() -> None:
    with court("2", "50", "2", "1") as (judges, _):
        judges.verdict()
        judges.forget_proofs()
        blocked, stopped = judges.stop()
        assert len(stopped) == 4
        assert len(blocked) == len(inside(blocked)) == 1


def test_none_is_for_longer_than_a_stop_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    with court("50", "50", "50", "0") as (judges, _):
        judges.verdict()
        monkeypatch.setattr(judges.judge, "_deadline", lambda: 0)
        monkeypatch.setattr("hotpatch.quiescence.unwind.Unwinder.unwind", fail)
        assert judges.stop()[0] == []
        judges.forget_proofs()
        blocked, _ = judges.stop()
        assert len(blocked) == 50 and not inside(blocked)


def test_what_is_known_of_one_thread_serves_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with court("100", "50", "100", "1") as (judges, _):
        blocked, stopped = judges.stop()
        judges.judge._unproven = {}
        judges.judge.learn(stopped[thread.tid] for thread in (blocked[0], blocked[-1]))
        monkeypatch.setattr("hotpatch.quiescence.unwind.Unwinder.unwind", fail)
        monkeypatch.setattr(judges.judge, "_deadline", lambda: 1 << 62)
        (blocked_one,) = judges.stop()[0]
        assert blocked_one.frames


def test_threads_that_move_all_the_time_are_judged_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Proofs, "holding", lambda *_: {})
    monkeypatch.setattr(Proofs, "by_shape", lambda *_: None)
    with court("60", "50", "60", "0") as (judges, _):
        for _attempt in range(10):
            if judges.verdict() == []:
                return
    raise AssertionError("not in ten stops")


@pytest.mark.usefixtures("no_time")
def test_other_code_is_learnt_anew() -> None:
    with court("5", "10", "5", "0") as (judges, _):
        judges.verdict()
        assert judges.verdict() == []
        judges.judge.follow([])  # as if all libraries had been unmapped
        assert len(judges.verdict()) == 5
        assert judges.verdict() == []

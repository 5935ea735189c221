# SPDX-License-Identifier: GPL-2.0-or-later
"""Transfers are tried out in a replica: what fails there, or would be seen outside, is not done."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hotpatch
from hotpatch.update import cloning
from hotpatch.update.result import Progress
from tests.cli.running import hotpatch as command
from tests.support.compiled import CompileShared
from tests.support.proc import descriptors
from tests.support.programs import Program, executable, patch, running, started, wait_until
from tests.update.frozen import unchanged
from tests.update.judging import refused, regions, untouched
from tests.update.leftovers import children
from tests.update.leftovers import state as state_of
from tests.update.test_transfer import (
    FAILURES,
    NEW,
    OLD,
    STATE,
    WAIT,
    die_in_a_transfer,
    expect,
)


@pytest.fixture
def state() -> Iterator[Program]:
    with running("state") as program:
        yield program


def test_what_it_took_and_that_nothing_is_left(state: Program) -> None:
    before = descriptors(state.pid)
    for _ in range(3):
        result = hotpatch.apply(state.pid, patch("state"))
        assert result.warnings == ()
        assert result.messages == ("1000 entries moved",)
        took = result.rehearsal
        assert took is not None
        assert took.logged == 1000 * 8 + 4
        assert took.us > 0
        assert took.private_kib > 0
        assert took.stall_us == max(s.us for s in result.stops if s.phase == "rehearse")
        assert children(state.pid) == []
        expect(state, NEW)
        hotpatch.revert(state.pid)
        expect(state, OLD)
    assert regions(state.pid) == []
    assert descriptors(state.pid) == before


def test_without(state: Program) -> None:
    result = hotpatch.apply(state.pid, patch("state"), rehearse=False)
    assert result.rehearsal is None
    assert "rehearse" not in {stop.phase for stop in result.stops}


@pytest.mark.parametrize("name", FAILURES)
def test_one_that_fails(name: str, state: Program, compile_shared: CompileShared) -> None:
    define, words = FAILURES[name]
    path = compile_shared(STATE, "-O2", "-g", f"-D{define}")
    with (
        untouched(state),
        refused("in the rehearsal, ", words, error=hotpatch.RolledBack),
    ):
        hotpatch.apply(state.pid, path, transfer_timeout=0.5)
    assert children(state.pid) == []
    expect(state, OLD)


def test_a_reverse_that_fails(state: Program, compile_shared: CompileShared) -> None:
    path = compile_shared(STATE, "-O2", "-DBACK=return 3")
    with untouched(state), refused("in the rehearsal, reverse shrink (", "returned 3",
                                   error=hotpatch.RolledBack):  # fmt: skip
        hotpatch.apply(state.pid, path)
    expect(state, OLD)


def test_the_target_is_not_changed_by_a_byte(compile_shared: CompileShared) -> None:
    path = compile_shared(STATE, "-O2", "-DAFTER=return 7")
    command = ["env", "GLIBC_TUNABLES=glibc.pthread.rseq=0"]
    with started([*command, executable("state"), "100", "2"]) as program:
        with unchanged(program), refused("rehearsal", error=hotpatch.RolledBack):
            hotpatch.apply(program.pid, path)
        expect(program, OLD)


def test_a_write_past_the_log(state: Program, compile_shared: CompileShared) -> None:
    path = compile_shared(STATE, "-O2", "-DAFTER=total += 0; *(volatile long *)&total = 5")
    with untouched(state), refused("changes total past the log", "hotpatch_set"):
        hotpatch.apply(state.pid, path)
    expect(state, OLD)


def test_a_reverse_that_does_not_take_all_back(
    state: Program, compile_shared: CompileShared
) -> None:
    text = "extern long fail_at;\n" + STATE
    path = compile_shared(text, "-O2", "-g", "-DAFTER=hotpatch_set(fail_at, 77)")
    result = hotpatch.apply(state.pid, path)
    (warning,) = result.warnings
    assert "1 variables are not as before: fail_at" in warning
    expect(state, NEW)


def test_shared_memory(state: Program, compile_shared: CompileShared) -> None:
    text = "extern long *shared;\n" + STATE
    path = compile_shared(text, "-O2", "-DAFTER=hotpatch_set(*shared, 5)")
    with untouched(state), refused("transfer grow", "memory that is shared", "--no-rehearse"):
        hotpatch.apply(state.pid, path)
    assert state.ask()["shared"] == 0
    hotpatch.apply(state.pid, path, rehearse=False)
    assert state.ask()["shared"] == 5
    expect(state, NEW)


def test_a_file(state: Program, compile_shared: CompileShared, tmp_path: Path) -> None:
    file = tmp_path / "written"
    write = (
        f'AFTER=int fd = open("{file}", O_CREAT | O_WRONLY, 0600); '
        'write(fd, "once\\n", 5); close(fd)'
    )
    text = "#include <fcntl.h>\n#include <unistd.h>\n" + STATE
    path = compile_shared(text, "-O2", f"-D{write}")
    result = hotpatch.apply(state.pid, path)
    assert file.read_text() == "once\n"
    assert any("openat" in warning for warning in result.warnings)
    expect(state, NEW)


def test_a_target_that_is_too_large(state: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloning, "_NS_AN_AREA", 10**9)
    with untouched(state), refused("can't be rehearsed", "would have to be held"):
        hotpatch.apply(state.pid, patch("state"), max_pause_ms=50)
    expect(state, OLD)


def test_options(simple: Program, state: Program) -> None:
    assert command("apply", "--rehearse", "--no-rehearse", state.pid, patch("state")).code == 2
    assert command("apply", "--rehearse", "--dry-run", state.pid, patch("state")).code == 2
    done = command("apply", "--json", "--rehearse", simple.pid, patch("answer_2"))
    assert done.json["rehearsal"] is None
    assert "nothing was rehearsed" in done.json["warnings"][0]
    done = command("apply", state.pid, patch("state"))
    assert "rehearsed in" in done.out
    assert "1000 entries moved" in done.out


def test_the_patcher_dies_meanwhile(state: Program, compile_shared: CompileShared) -> None:
    """The replica goes with it; the target is old, and the next patcher reaps what is left."""
    path = compile_shared(STATE, "-O2", f"-DAFTER={WAIT}")

    def act(report: Callable[[Progress], None]) -> object:
        def in_rehearsal(progress: Progress) -> None:
            if progress.phase == "rehearse" and progress.total:
                os.kill(os.getpid(), signal.SIGKILL)

        return hotpatch.apply(state.pid, path, on_progress=in_rehearsal)

    die_in_a_transfer(act)
    left = children(state.pid)
    assert len(left) == 1
    wait_until(lambda: state_of(left[0]) in "ZX", "the replica is dead")
    expect(state, OLD)
    hotpatch.apply(state.pid, patch("state"))
    expect(state, NEW)
    assert children(state.pid) == []

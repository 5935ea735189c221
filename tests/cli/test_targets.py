# SPDX-License-Identifier: GPL-2.0-or-later
"""Naming a process other than by its pid: by unit, by name, by the program that it runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hotpatch.cli import targets, updating
from hotpatch.cli.targets import Chosen
from tests.cli.running import hotpatch
from tests.support.programs import Program, executable, patch, started

Start = Callable[[], Program]


@pytest.fixture
def program_file(tmp_path: Path) -> Path:
    """A program that nobody else runs, of a name that nobody else has."""
    path = tmp_path / f"named-{os.getpid()}"
    shutil.copy(executable("simple"), path)
    return path


@pytest.fixture
def start(program_file: Path) -> Iterator[Start]:
    """Starts it."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(started([str(program_file)]))


def test_by_name(start: Start, program_file: Path) -> None:
    program = start()
    done = hotpatch("apply", "--json", program_file.name, patch("answer_2"))
    assert (done.code, done.json["pid"]) == (0, program.pid)


def test_by_a_name_longer_than_the_kernel_keeps(tmp_path: Path) -> None:
    path = tmp_path / f"a-name-of-more-than-15-characters-{os.getpid()}"
    shutil.copy(executable("simple"), path)
    with started([str(path)]) as program:
        assert hotpatch("list", "--json", path.name).json["pid"] == program.pid


def test_an_ambiguous_name_lists_the_candidates(start: Start, program_file: Path) -> None:
    pids = {start().pid, start().pid}
    done = hotpatch("apply", "--json", program_file.name, patch("answer_2"))
    assert done.code == 2
    assert {candidate["pid"] for candidate in done.json["candidates"]} == pids
    for pid in pids:
        assert f"  {pid}  {program_file}" in done.err
    assert "--all-of" in done.json["hint"]


def test_a_name_of_nobody() -> None:
    done = hotpatch("apply", "--json", "no-such-process-anywhere", patch("answer_2"))
    assert (done.code, done.json["status"]) == (6, "gone")


def test_a_path_is_no_name(program_file: Path) -> None:
    done = hotpatch("apply", str(program_file), patch("answer_2"))
    assert done.code == 2
    assert f"--exe {program_file}" in done.err


def test_by_unit(start: Start, tmp_path: Path) -> None:
    program = start()
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\n[ "$5" = web.service ] && echo {program.pid} || echo 0\n')
    systemctl.chmod(0o755)
    path = f"{systemctl.parent}:{os.environ['PATH']}"
    assert hotpatch("list", "--json", "web.service", PATH=path).json["pid"] == program.pid
    assert hotpatch("list", "--json", "other.service", PATH=path).code == 6


def test_exe(start: Start, program_file: Path) -> None:
    program = start()
    done = hotpatch("apply", "--json", "--exe", program_file, patch("answer_2"))
    assert (done.code, done.json["pid"]) == (0, program.pid)
    assert hotpatch("revert", "--exe", program_file, "answer_2").code == 0
    assert program.ask()["answer"] == 1


def test_exe_of_a_program_that_was_replaced(start: Start, program_file: Path) -> None:
    program = start()
    program_file.unlink()
    shutil.copy(executable("simple"), program_file)
    assert hotpatch("list", "--json", "--exe", program_file).json["pid"] == program.pid


def test_exe_of_several(start: Start, program_file: Path) -> None:
    start(), start()
    assert hotpatch("apply", "--exe", program_file, patch("answer_2")).code == 2


def test_exe_of_none(program_file: Path) -> None:
    assert hotpatch("apply", "--exe", program_file, patch("answer_2")).code == 6
    assert hotpatch("apply", "--all-of", program_file, patch("answer_2")).code == 6


def test_all_of(start: Start, program_file: Path) -> None:
    programs = [start(), start(), start()]
    done = hotpatch("apply", "--json", "--all-of", program_file, patch("answer_2"))
    assert done.code == 0
    assert {(one["pid"], one["status"]) for one in done.json} == {
        (program.pid, "applied") for program in programs
    }
    assert [program.ask()["answer"] for program in programs] == [2, 2, 2]
    done = hotpatch("revert", "--json", "--all-of", program_file)
    assert {one["status"] for one in done.json} == {"reverted"}
    assert [program.ask()["answer"] for program in programs] == [1, 1, 1]


def test_all_of_tells_each_outcome(start: Start, program_file: Path) -> None:
    patched, bare = start(), start()
    hotpatch("apply", patched.pid, patch("answer_2"))
    done = hotpatch("apply", "--json", "--all-of", program_file, patch("answer_2"))
    assert done.code == 3
    assert {one["pid"]: one["status"] for one in done.json} == {
        patched.pid: "refused",
        bare.pid: "applied",
    }
    assert f"error: process {patched.pid}: " in done.err


def test_all_of_is_a_list_of_one_for_one(start: Start, program_file: Path) -> None:
    program = start()
    (one,) = hotpatch("list", "--json", "--all-of", program_file).json
    assert one == {"pid": program.pid, "patches": []}


def test_both_ways_at_once(program_file: Path) -> None:
    done = hotpatch("apply", "--exe", program_file, "--all-of", program_file, patch("answer_2"))
    assert done.code == 2


def test_children_born_meanwhile_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was forked while its siblings were updated is looked at once more, and only once."""
    worlds = iter([[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    monkeypatch.setattr(updating, "running", lambda _: next(worlds))
    turns = list(updating._pids(Chosen([1, 2], [], "/program")))
    assert turns == [(1, False), (2, False), (3, True), (4, True)]


def test_a_server_that_forks_for_ever_does_not_keep_us(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = iter(range(10_000))
    monkeypatch.setattr(updating, "running", lambda _: [next(pids)])
    assert len(list(updating._pids(Chosen([99_999], [], "/program")))) < 10


def test_hotpatch_itself_is_no_candidate() -> None:
    assert os.getpid() not in targets.running("/proc/self/exe")

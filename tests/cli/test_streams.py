# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes where: results and messages apart, and outcomes that stand though nobody listens."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.cli.running import (
    COMMAND,
    TIMEOUT,
    Done,
    environment,
    hotpatch,
    hotpatch_finding_sleepers,
)
from tests.cli.terminal import on_a_terminal
from tests.support.programs import Program, patch, running


@pytest.fixture
def program() -> Iterator[Program]:
    """A target whose answer is 1."""
    with running("simple") as started:
        yield started


def redirected(redirection: str, *arguments: object) -> Done:
    """Run the command with a redirection of the shell."""
    line = f"exec {shlex.join([*COMMAND, *map(str, arguments)])} {redirection}"
    done = subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_results_to_stdout_only(program: Program) -> None:
    done = hotpatch("apply", program.pid, patch("answer_2"))
    assert done.err == ""
    assert done.out.startswith("applied answer_2 (")
    assert "longest pause" in done.out


def test_errors_to_stderr_only(program: Program) -> None:
    done = hotpatch("revert", program.pid)
    assert done.out == ""
    assert done.err.startswith("error: ")


def test_the_reason_comes_before_the_hint() -> None:
    done = hotpatch("apply", "nothing/such", "x.so")
    error, hint = done.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")


def test_blockers_are_listed_one_a_line() -> None:
    with running("inside", "asleep") as program:
        program.ask("enter")
        arguments = ("apply", "--timeout", "0", program.pid, patch("compute"))
        done = hotpatch_finding_sleepers(*arguments)
        assert done.code == 4
        error, blocker, hint = done.err.splitlines()
        assert error.startswith("error: ")
        assert re.match(r"  thread \d+ in compute, asleep in read\(\): .*compute", blocker)
        assert hint.startswith("hint: ")


@pytest.mark.parametrize("option", ["--json", ""], ids=["json", "text"])
def test_quiet_says_nothing_but_errors(program: Program, option: str) -> None:
    options = [option] if option else []
    done = hotpatch("apply", "-q", *options, program.pid, patch("answer_2"))
    assert done.err == ""
    assert bool(done.out) == bool(option)
    again = hotpatch("apply", "-q", *options, program.pid, patch("answer_2"))
    assert again.code == 3
    assert "applied already" in again.err


def test_verbose_has_the_stops_and_the_plan(program: Program) -> None:
    done = hotpatch("apply", "-v", program.pid, patch("answer_2"))
    assert done.code == 0
    assert "stop to commit" in done.out
    assert "entries to be written" in done.out
    assert program.ask()["answer"] == 2


def test_json_is_all_there_is_on_stdout(program: Program) -> None:
    for arguments in (["-v", "--json"], ["--json", "-q"]):
        assert hotpatch("apply", *arguments, program.pid, patch("answer_2")).json
        assert hotpatch("revert", *arguments, program.pid).json


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_the_reader_of_stdout_has_gone(program: Program, options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "apply", *options, str(program.pid), patch("answer_2")],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert program.ask()["answer"] == 2


def test_stdout_is_closed(program: Program) -> None:
    done = redirected(">&-", "apply", program.pid, patch("answer_2"))
    assert (done.code, done.err) == (0, "")
    assert program.ask()["answer"] == 2


def test_everything_is_closed(program: Program) -> None:
    done = redirected("<&- >&- 2>&-", "apply", program.pid, patch("answer_2"))
    assert done.code == 0
    assert program.expect_progress()["answer"] == 2


def test_stderr_is_closed(program: Program) -> None:
    done = redirected("2>&-", "apply", "--json", program.pid, "/nonexistent.so")
    assert done.code == 3
    assert done.json["status"] == "refused"


def test_a_full_disk_does_not_hide_what_was_done(program: Program) -> None:
    done = redirected(">/dev/full", "apply", program.pid, patch("answer_2"))
    assert done.code == 0
    assert "the result can't be written: No space left on device" in done.err
    assert program.ask()["answer"] == 2


def test_a_full_disk_is_a_failure_where_the_result_is_all(program: Program) -> None:
    done = redirected(">/dev/full", "list", "--json", program.pid)
    assert done.code == 1
    assert "No space left on device" in done.err


def test_names_that_are_no_text(program: Program, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = os.fsencode(tmp_path_factory.mktemp("patches")) + b"/\xff\xfe.so"
    with open(path, "wb") as file, open(patch("answer_2"), "rb") as original:
        file.write(original.read())
    done = hotpatch("apply", program.pid, os.fsdecode(path), PYTHONUTF8="0", LC_ALL="C")
    assert done.code == 0
    assert "applied" in done.out


def test_colours_are_for_terminals() -> None:
    assert "\x1b[" not in hotpatch("apply").err
    assert "\x1b[31merror:" in on_a_terminal("apply").out


@pytest.mark.parametrize(
    ("options", "variables"),
    [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})],
    ids=["--no-color", "NO_COLOR", "TERM=dumb"],
)
def test_no_colours(options: list[str], variables: dict[str, str]) -> None:
    done = on_a_terminal("apply", *options, "no-such-process", "x.so", **variables)
    assert done.code == 6
    assert "error: " in done.out
    assert "\x1b[" not in done.out

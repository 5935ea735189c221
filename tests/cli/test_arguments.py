# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what is taken, what is not, and that not taking it never is 0."""

from __future__ import annotations

import pytest

from hotpatch.cli import apply, revert
from hotpatch.cli.arguments import parse
from hotpatch.cli.main import COMMANDS
from tests.cli.running import hotpatch

WRONG = {
    "nothing": "",
    "no such command": "aply 1 x.so",
    "an option before the command": "--json apply 1 x.so",
    "no such option": "apply --frobnicate 1 x.so",
    "no operands": "apply",
    "no patch": "apply 1",
    "too many operands": "apply 1 x.so y.so",
    "no value": "apply 1 x.so --timeout",
    "a value for a flag": "apply --json=yes 1 x.so",
    "a timeout that is no number": "apply --timeout soon 1 x.so",
    "a negative timeout": "apply --timeout -1 1 x.so",
    "an infinite timeout": "apply --timeout inf 1 x.so",
    "a timeout that is not a number": "apply --timeout nan 1 x.so",
    "no pause at all": "apply --max-pause 0 1 x.so",
    "an option of another command": "list --timeout 1 1",
    "list of two": "list 1 2",
    "revert of two": "revert 1 a b",
    "inspect of none": "inspect",
    "inspect of two": "inspect x.so y.so",
    "cflags of something": "cflags x",
    "no shell": "completion",
    "no such shell": "completion tcsh",
    "a negative pid": "list -5",
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG.keys())
def test_wrong_usage(line: str) -> None:
    done = hotpatch(*line.split())
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")


def test_all_commands_are_listed() -> None:
    shown = hotpatch("--help").out
    for command in COMMANDS:
        assert f"\n  {command} " in shown


def test_version() -> None:
    done = hotpatch("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.split()[0] == "hotpatch"
    assert hotpatch("-V") == done


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_of_each_command(command: str, option: str) -> None:
    done = hotpatch(command, option)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: hotpatch {command}")


def test_defaults() -> None:
    given = parse(apply.OPTIONS, ["1", "x.so"])
    assert given.operands == ["1", "x.so"]
    assert (given.timeout, given.max_pause, given.replace) == (10.0, None, [])
    assert not (given.json or given.force or given.dry_run or given.quiet or given.verbose)


def test_options_anywhere() -> None:
    line = "--timeout=2.5 1 -qv --replace a=b x.so --replace c --max-pause 5 --js -- --y"
    given = parse(apply.OPTIONS, line.split())
    assert given.operands == ["1", "x.so", "--y"]
    assert (given.timeout, given.max_pause) == (2.5, 5.0)
    assert given.replace == ["a=b", "c"]
    assert given.quiet
    assert given.verbose
    assert given.json


def test_all_is_not_short_for_all_of() -> None:
    given = parse(revert.OPTIONS, ["--all", "1"])
    assert (given.all, given.all_of, given.operands) == (True, None, ["1"])

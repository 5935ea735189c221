# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion: the scripts parse in their shells, and bash's gives what it should."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from hotpatch.cli.main import COMMANDS
from tests.cli.running import hotpatch

SHELLS = ("bash", "zsh", "fish")

DRIVE = """
source "$1"; shift
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_hotpatch
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """Each shell."""
    return str(request.param)


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file to be sourced by bash."""
    path = tmp_path_factory.mktemp("completion") / "hotpatch.bash"
    path.write_text(hotpatch("completion", "bash").out)
    return path


def complete(script: Path, *words: str, cwd: Path | None = None) -> set[str]:
    """What bash offers for the last of these words."""
    done = subprocess.run(
        ["bash", "--norc", "-c", DRIVE, "bash", str(script), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_the_script_parses(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    done = hotpatch("completion", shell)
    assert (done.code, done.err) == (0, "")
    script.write_text(done.out)
    if not shutil.which(shell):
        pytest.skip(f"no {shell}")
    run = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_every_command_and_option_is_there(shell: str) -> None:
    script = hotpatch("completion", shell).out
    for name in COMMANDS:
        assert name in script
        for option in import_module(f"hotpatch.cli.{name}").OPTIONS:
            long = option.names[-1]
            assert (f"-l {long[2:]} " if shell == "fish" else long) in script


def test_bash_commands(bash_script: Path) -> None:
    assert complete(bash_script, "hotpatch", "") == {*COMMANDS, "--help", "--version"}
    assert complete(bash_script, "hotpatch", "re") == {"revert"}


def test_bash_options(bash_script: Path) -> None:
    assert complete(bash_script, "hotpatch", "apply", "--m") == {"--max-pause"}
    assert complete(bash_script, "hotpatch", "revert", "1", "--al") == {"--all", "--all-of"}
    assert complete(bash_script, "hotpatch", "list", "--ti") == set()


def test_bash_pids(bash_script: Path) -> None:
    pid = str(os.getpid())
    for command in ("apply", "check", "revert", "list"):
        assert pid in complete(bash_script, "hotpatch", command, pid[:2])
    assert pid in complete(bash_script, "hotpatch", "apply", "--timeout", "5", "-v", "")
    assert pid in complete(bash_script, "hotpatch", "apply", "--timeout", "=", "5", "")
    assert pid not in complete(bash_script, "hotpatch", "inspect", "")


def test_bash_patches(bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "patches").mkdir()
    for name in ("fix.so", "fix.c", "patches/other.so"):
        (tmp_path / name).touch()
    for words in (
        ["inspect"],
        ["apply", "1"],
        ["apply", "--json", "1", "--timeout", "3"],
        ["apply", "--exe", "/bin/sh"],
        ["apply", "--all-of", "=", "/bin/sh"],
    ):
        found = complete(bash_script, "hotpatch", *words, "", cwd=tmp_path)
        assert found == {"fix.so", "patches/"}
    found = complete(bash_script, "hotpatch", "inspect", "patches/", cwd=tmp_path)
    assert found == {"patches/other.so"}


def test_bash_programs(bash_script: Path, tmp_path: Path) -> None:
    (tmp_path / "server").touch()
    assert complete(bash_script, "hotpatch", "apply", "--exe", "s", cwd=tmp_path) == {"server"}
    words = ("hotpatch", "list", "--all-of", "=", "s")
    assert complete(bash_script, *words, cwd=tmp_path) == {"server"}


def test_bash_shells(bash_script: Path) -> None:
    assert complete(bash_script, "hotpatch", "completion", "") == set(SHELLS)


def test_bash_nothing_more(bash_script: Path) -> None:
    assert complete(bash_script, "hotpatch", "list", "1", "") == set()
    assert complete(bash_script, "hotpatch", "nonsense", "") == set()

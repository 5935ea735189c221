# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command does not need is not imported: that, and not the time, is what is asserted.

`bench/startup.py` measures the time.
"""

from __future__ import annotations

import subprocess
import sys

from tests.cli.running import environment, hotpatch
from tests.support.programs import patch, running

SPY = """
import sys
from hotpatch.cli.main import main
code = main(sys.argv[1:])
print()
print(*sys.modules)
sys.exit(code)
"""


def imported(*arguments: object) -> set[str]:
    """The modules that a command has imported when it is done."""
    done = subprocess.run(
        [sys.executable, "-c", SPY, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def ours(modules: set[str]) -> set[str]:
    """The packages of hotpatch among them."""
    return {name.split(".")[1] for name in modules if name.startswith("hotpatch.")}


def test_help() -> None:
    modules = imported("--help")
    assert ours(modules) == {"cli"}
    assert not modules & {"capstone", "keystone", "elftools", "ptrace", "argparse", "ctypes"}
    assert not modules & {"typing", "re", "subprocess", "pathlib", "dataclasses", "inspect"}


def test_list() -> None:
    with running("simple") as program:
        hotpatch("apply", program.pid, patch("answer_2"))
        modules = imported("list", program.pid)
    assert not modules & {"capstone", "keystone", "argparse", "subprocess"}
    assert not ours(modules) & {"update", "redirect", "link", "patch", "elf"}


def test_inspect() -> None:
    modules = imported("inspect", patch("answer_2"))
    assert not modules & {"capstone", "keystone", "argparse", "subprocess"}
    assert not ours(modules) & {"update", "redirect", "process"}


def test_revert() -> None:
    with running("simple") as program:
        hotpatch("apply", program.pid, patch("answer_2"))
        modules = imported("revert", program.pid)
    assert not modules & {"capstone", "keystone", "inspect", "subprocess"}
    assert not ours(modules) & {"patch", "link", "redirect", "elf", "dwarf"}


def test_apply() -> None:
    with running("simple") as program:
        modules = imported("apply", program.pid, patch("answer_2"))
    assert not modules & {"argparse", "elftools", "ptrace", "dataclasses"}
    assert not modules & {"capstone", "keystone", "inspect", "subprocess", "_hashlib"}
    assert "hotpatch.update.unmap" not in modules


def test_check() -> None:
    with running("simple") as program:
        modules = imported("check", program.pid, patch("answer_2"))
    assert not modules & {"hotpatch.update.apply", "hotpatch.update.session"}

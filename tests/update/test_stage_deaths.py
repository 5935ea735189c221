# SPDX-License-Identifier: GPL-2.0-or-later
"""A patcher that dies while it maps a region leaves one that the next patcher knows and removes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

import hotpatch
from hotpatch.process import ledger
from tests.support.proc import Mapping, maps
from tests.support.programs import ROOT, patch, running
from tests.update.judging import expect_answer

DYING = """
import os, signal, sys
import hotpatch
from hotpatch.process import ledger

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

name = sys.argv[3]
setattr(ledger, name, die)
hotpatch.apply(int(sys.argv[1]), sys.argv[2])
"""


def regions_without_name(pid: int) -> list[Mapping]:
    """Executable memory of no file."""
    return [m for m in maps(pid) if m.permissions == "r-xp" and not m.path]


@pytest.mark.parametrize("moment", ["mark", "decode"])
def test_what_is_left_has_no_name_and_is_removed(moment: str) -> None:
    """`mark` is asked for right behind the call that maps; `decode` when all is staged."""
    with running("simple") as program:
        before = regions_without_name(program.pid)
        arguments = [sys.executable, "-c", DYING, str(program.pid), patch("answer_2"), moment]
        assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        left = [m for m in regions_without_name(program.pid) if m not in before]
        assert left
        expect_answer(program, 2 if moment == "decode" else 1)
        if moment == "decode":
            hotpatch.revert(program.pid)
        hotpatch.apply(program.pid, patch("answer_3"))
        expect_answer(program, 3)
        hotpatch.revert(program.pid)
        assert regions_without_name(program.pid) == before
        expect_answer(program, 1)


def test_a_region_has_a_size_of_its_own() -> None:
    sizes = {ledger.region_size(least) for least in range(1, 600 << 10, 4096)}
    assert all(size % 4096 == 0 and size // 4096 % 64 == 45 for size in sizes)
    assert all(0 <= ledger.region_size(n) - n < 64 << 12 for n in (1, 4096, 45 << 12, 46 << 12))

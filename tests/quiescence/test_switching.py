# SPDX-License-Identifier: GPL-2.0-or-later
"""Which programs may have coroutines: those that need not be looked through must not be."""

from __future__ import annotations

import sys

import pytest

from hotpatch.process.image import Process
from hotpatch.quiescence.switching import can_switch, sets_jumps
from tests.quiescence.conftest import Compile
from tests.support.programs import PROGRAMS, build, running, started


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_frames_of_every_shape_are_no_switch(compiled: Compile, compiler: str, level: str) -> None:
    path = compiled("shapes.c", level, compiler=compiler)
    with started([path]) as program, Process(program.pid) as process:
        assert not can_switch(process, ())
        assert not sets_jumps(process)


@pytest.mark.parametrize("way", [1, 2, 3])
@pytest.mark.parametrize("stripped", [False, True], ids=["symbols", "stripped"])
def test_a_switch_written_by_hand_is_found(compiled: Compile, way: int, stripped: bool) -> None:
    path = compiled("shapes.c switch.S", "-O2", f"-DWAY={way}", *["-s"] * stripped)
    with started([path]) as program, Process(program.pid) as process:
        assert can_switch(process, ())


WITHOUT = ("simple", "simple-static", "simple-static-pie", "simple-dynsym", "simple-musl",
           "simple-musl-static", "threads", "sleepers")  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT)
def test_programs_without(name: str) -> None:
    if not (build(PROGRAMS) / name).exists():
        pytest.skip(f"no {name}")
    with running(name) as program, Process(program.pid) as process:
        assert not can_switch(process, ())


def test_programs_with() -> None:
    with running("coroutines") as program, Process(program.pid) as process:
        assert can_switch(process, ())
        assert sets_jumps(process)


def test_an_interpreter() -> None:
    """Millions of bytes of code, in which some look like what they aren't."""
    text = "import os, sys; print(f'READY pid={os.getpid()}', flush=True); sys.stdin.read()"
    with started([sys.executable, "-S", "-c", text]) as program, Process(program.pid) as process:
        assert not can_switch(process, ())

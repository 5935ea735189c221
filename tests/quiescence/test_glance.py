# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sleeps inside is seen without a stop."""

from __future__ import annotations

import pytest

from hotpatch.linux import procfs
from hotpatch.process.image import Process
from hotpatch.quiescence.ranges import Range, Ranges
from hotpatch.quiescence.stacks import StackMap
from hotpatch.quiescence.verdict import Blocked, Judge
from tests.support.programs import Program, running


def glance(program: Program, function: str) -> list[Blocked]:
    """The threads that sleep in a function of the program."""
    process = Process(program.pid)
    try:
        (module,) = [module for module in process.modules if module.program]
        (symbol,) = module.elf.symbols.by_name(function)
        start = module.bias + symbol.value
        ranges = Ranges([Range(start, start + symbol.size, function)])
        looked = {tid: procfs.sleep(program.pid, tid) for tid in procfs.threads(program.pid)}
        sleeps = {tid: sleep for tid, sleep in looked.items() if sleep is not None}
        stacks = StackMap(program.pid, procfs.mappings(program.pid))
        return Judge(process).glance(sleeps, stacks, ranges)
    finally:
        process.close()


@pytest.mark.parametrize(("mode", "depth"), [("asleep", 1), ("recursive", 10), ("handler", 1)])
def test_one_who_sleeps_inside_is_seen(mode: str, depth: int) -> None:
    with running("inside", mode) as program:
        assert glance(program, "compute") == []
        program.ask("enter")
        (blocked,) = glance(program, "compute")
        assert len(blocked.addresses) >= depth
        assert set(blocked.addresses) <= {frame.pc for frame in blocked.frames}
        program.ask("leave")
        assert glance(program, "compute") == []  # though its stack may still hold the words


def test_one_who_runs_is_not() -> None:
    with running("inside", "spinning") as program:
        program.ask("enter")
        assert glance(program, "compute") == []

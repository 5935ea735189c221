# SPDX-License-Identifier: GPL-2.0-or-later
"""Stacks of busy programs, at moments that nobody chose, against gdb's.

A thousand of each are a sweep; some are compared in every run of the tests.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from hotpatch.process.image import Process
from tests.quiescence.comparison import FROM_DEBUG_FILE, Comparison, Tally
from tests.quiescence.conftest import Compile
from tests.quiescence.gdb_frames import Gdb
from tests.quiescence.subjects import subject
from tests.support.programs import wait_until


class Expected(NamedTuple):
    """What is to be found on the stacks, and how many of a thousand may end early.

    Modules are given by the beginnings of their names. See `comparison` for the excuses.
    `debug_files`: gdb reads those that are installed, each time, which makes minutes of one.
    """

    modules: tuple[str, ...] = ()
    signals: bool = False
    excused: int = 3
    debug_files: bool = False


SUBJECTS = {
    "nginx": Expected(("nginx", "libz")),
    "redis": Expected(("redis-check-rdb",)),  # which redis-server is a name of
    "memcached": Expected(("memcached", "libevent")),
    "python3": Expected(("python3", "libz", "libsqlite3")),
    # Exceptions land there all the time.
    "c++": Expected(
        ("libstdc++", "libgcc_s", "[vdso]"), signals=True, excused=15, debug_files=True
    ),
    "python": Expected(),
    "shapes": Expected(),
    "vdso": Expected(("[vdso]",)),
    "timer": Expected(("timer",), signals=True),
    "threads": Expected(("threads",), debug_files=True),
    "mallocs": Expected(("mallocs",), debug_files=True),
    # Nothing is said of the instruction that a new thread begins with, in clone3.
    "churn": Expected(("churn",), excused=100),
}


def processor_ns(pid: int) -> int:
    """What the threads of a process have used (see clock_getcpuclockid(3))."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def let_run(pid: int) -> None:
    """Wait until a process has done something, so that it is not met where it was left."""
    enough = processor_ns(pid) + random.randrange(1_000_000)
    wait_until(lambda: processor_ns(pid) > enough, f"{pid} runs")


def compare_stacks(
    name: str, samples: int, compiled: Compile, directory: Path, debug_files: bool = False
) -> Tally:
    """Stop a busy program again and again, and compare the stacks of all of its threads."""
    tally = Tally()
    with subject(name, compiled, directory) as pids, contextlib.ExitStack() as stack:
        gdb = stack.enter_context(Gdb(debug_files))
        processes = [stack.enter_context(Process(pid)) for pid in pids]
        comparisons = [Comparison(process, tally) for process in processes]
        for pid, comparison in itertools.cycle(zip(pids, comparisons, strict=True)):
            if tally.stacks.total() >= samples:
                break
            let_run(pid)
            threads = gdb.attach(pid)
            try:
                for thread in threads:
                    comparison.compare(thread)
            finally:
                gdb.detach()
    return tally


@pytest.mark.sweep
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_thousand_stacks(
    name: str, compiled: Compile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = SUBJECTS[name]
    tally = compare_stacks(name, 1000, compiled, tmp_path, expected.debug_files)
    with capsys.disabled():
        print(f"\n{name}: {tally}")
    assert tally.excused <= expected.excused
    assert tally.signals or not expected.signals
    assert not (expected.debug_files and tally.names[FROM_DEBUG_FILE])
    for beginning in expected.modules:
        assert any(module.startswith(beginning) for module in tally.modules), beginning


@pytest.mark.parametrize("name", ["nginx", "memcached", "python3", "c++"])
def test_fifty_stacks(name: str, compiled: Compile, tmp_path: Path) -> None:
    tally = compare_stacks(name, 50, compiled, tmp_path)
    print(tally)
    assert tally.excused <= 2

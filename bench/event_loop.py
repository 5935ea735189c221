# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon an update says that a function never returns.

    python -m bench.event_loop [ROUNDS]

A patch replaces the event loop of the sample web server, or the loop and a function that it calls.
`named` is the time from the first look that saw the loop in the way to the error that names it,
`apply` that of the whole call, with planning, staging and undoing; the time of the first call of a
process is in `most` alone. In ms, median and most of ROUNDS (20), without load and under one of 500
requests a second.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import hotpatch
from hotpatch.update.waiting import Waiting
from tests.servers.test_event_loop import REPLACES_LOOP_AND_CALLEE, REPLACES_THE_LOOP
from tests.support.compiled import SharedObjects
from tests.targets.servers import BUILD, Load, Program

ROUNDS = 20
PATCHES = {"loop": REPLACES_THE_LOOP, "loop and callee": REPLACES_LOOP_AND_CALLEE}


def times(pid: int, path: Path) -> tuple[float, float]:
    """Return the two times of an update that is refused, in ms."""
    seen: list[float] = []
    blocked = Waiting.blocked

    def watched(*arguments: Any) -> None:
        seen.append(time.perf_counter())
        blocked(*arguments)

    began = time.perf_counter()
    try:
        with mock.patch.object(Waiting, "blocked", watched):
            hotpatch.apply(pid, path, timeout=60)
    except hotpatch.Busy as error:
        ended = time.perf_counter()
        assert "never returns" in error.reason, error
        return (ended - seen[0]) * 1000, (ended - began) * 1000
    raise AssertionError("the loop was replaced")


def summary(values: list[float]) -> str:
    """Return the median and the most."""
    return f"{statistics.median(values):7.0f} {max(values):6.0f}"


def main(rounds: int) -> None:
    """Print the table."""
    print(f"{'':24}    named   most    apply   most")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        build = SharedObjects(Path(folder))
        site = f"{folder}/site"
        subprocess.run([f"{BUILD}/webload", "--make", site], check=True)
        server = Program("web-v1", "--root", site)
        stack.callback(server.end)
        port = server.ready()["port"]
        for load in (0, 500):
            if load:
                options = ("--connections", "4", "--rate", str(load), "--seconds", "3600")
                generator = Load("webload", "--port", port, *options)
                stack.callback(generator.end)
                generator.ready()
            for name, text in PATCHES.items():
                path = build(text, "-O2")
                named, whole = zip(*(times(server.pid, path) for _ in range(rounds)), strict=True)
                print(f"{name:16} {load:4}/s  {summary(list(named))} {summary(list(whole))}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)

# SPDX-License-Identifier: GPL-2.0-or-later
"""How long whole commands take, against an empty Python program in the same run.

    make -C targets && python bench/startup.py [ROUNDS]

The commands take turns, so that a busy machine is equally busy for all. Each line has the shortest
time of all rounds, by the clock and of processor time, and their ratios to `python -c pass`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROUNDS = 10
ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "targets" / "build" / "web-v1"
PATCH = ROOT / "targets" / "build" / "patches" / "web-v1-v2.so"


class Time(NamedTuple):
    """Milliseconds by the clock, and of the processor."""

    wall: float
    cpu: float


def measure(arguments: list[str]) -> Time:
    """Run Python with these arguments; raises CalledProcessError where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
    began = time.perf_counter()
    command = [sys.executable, *arguments]
    done = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(done.pid, 0)
    done.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command)
    return Time(wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3)


def commands(pid: int) -> dict[str, list[str]]:
    """Return what is measured, in an order in which it can be run again and again."""
    hotpatch = ["-m", "hotpatch"]
    return {
        "python -c pass": ["-c", "pass"],
        "hotpatch --help": [*hotpatch, "--help"],
        "hotpatch list PID": [*hotpatch, "list", "-q", str(pid)],
        "hotpatch list": [*hotpatch, "list", "-q"],
        "hotpatch inspect": [*hotpatch, "inspect", str(PATCH)],
        "hotpatch check": [*hotpatch, "check", str(pid), str(PATCH)],
        "hotpatch apply": [*hotpatch, "apply", str(pid), str(PATCH)],
        "hotpatch revert": [*hotpatch, "revert", str(pid)],
    }


def best(pid: int, rounds: int) -> dict[str, Time]:
    """Return the shortest times of each command."""
    times: dict[str, list[Time]] = {}
    for _ in range(rounds + 1):
        for name, arguments in commands(pid).items():
            times.setdefault(name, []).append(measure(arguments))
    return {  # the first round filled caches
        name: Time(*(min(column) for column in zip(*found[1:], strict=True)))
        for name, found in times.items()
    }


def main() -> None:
    """Start a server, and print a line for each command."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    server = subprocess.Popen(
        [SERVER, "--port", "0", "--root", "/"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()  # READY
        found = best(server.pid, rounds)
    finally:
        server.kill()
        server.communicate()
    base = next(iter(found.values()))
    print(f"{'':<18} {'ms':>7} {'ratio':>6} {'cpu ms':>7} {'ratio':>6}")
    for name, it in found.items():
        print(
            f"{name:<18} {it.wall:7.1f} {it.wall / base.wall:6.1f} "
            f"{it.cpu:7.1f} {it.cpu / base.cpu:6.1f}"
        )


if __name__ == "__main__":
    main()

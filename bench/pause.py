# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a target is held, beside the least that stopping it costs.

    python -m bench.pause [ROUNDS]

The floor is `bench/floor.c`: it seizes, interrupts and waits for all threads, reads their
registers and 16 KiB of stack, and detaches them, in C, with the same priority. Both take turns on
one process, so that a busy machine is equally busy for both; the ratio is taken turn by turn, and
its median printed. What is compared is the longest time for which one thread was held: in the stop
of the commit, and in the longest stop of the whole update (`pause_us`).

The second table is the stop of the commit for patches of 1 and of 1,000 functions.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import NamedTuple

import hotpatch
from hotpatch.update.result import Result
from tests.support.programs import floor, patch, running

ROUNDS = 20
FLOORS_A_ROUND = 3
THREADS = (1, 10, 100, 1000)


class Turn(NamedTuple):
    """Longest times that a thread was held, in µs."""

    floor: float
    commit: float
    pause: float


def floor_us(pid: int) -> float:
    """Return the median of the floor over a few stops."""
    command = [floor(), "--priority", "--rounds", str(FLOORS_A_ROUND), "--gap", "5", str(pid)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["held_us"]["median"])


def commit_us(result: Result) -> int:
    """Return how long the stop of the commit was: the last of that name."""
    return [stop.us for stop in result.stops if stop.phase == "commit"][-1]


def turns(pid: int, rounds: int) -> list[Turn]:
    """Measure a process in turns; the first one filled caches and is left out."""
    found = []
    for _ in range(rounds + 1):
        least = floor_us(pid)
        result = hotpatch.apply(pid, patch("answer_2"))
        hotpatch.revert(pid)
        found.append(Turn(least, commit_us(result), result.pause_us))
    return found[1:]


def row(threads: int, found: list[Turn]) -> str:
    """Return a line of the first table."""
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    ratios = [
        statistics.median(turn.commit / turn.floor for turn in found),
        statistics.median(turn.pause / turn.floor for turn in found),
    ]
    cells = [f"{us:10,.0f}" for us in medians]
    return f"{threads:8,} {cells[0]} {cells[1]} {ratios[0]:6.2f} {cells[2]} {ratios[1]:6.2f}"


def commits_of(name: str, rounds: int) -> list[int]:
    """Return the stops of commits of one patch of the program of a thousand functions, in µs."""
    found = []
    with running("many") as program:
        for _ in range(rounds + 1):
            found.append(commit_us(hotpatch.apply(program.pid, patch(name), timeout=60)))
            hotpatch.revert(program.pid, timeout=60)
    return found[1:]


def main() -> None:
    """Print both tables."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"median of {rounds} turns, µs")
    print(f"{'threads':>8} {'floor':>10} {'commit':>10} {'ratio':>6} {'pause':>10} {'ratio':>6}")
    for count in THREADS:
        with running("threads", str(count - 1)) as program:
            print(row(count, turns(program.pid, rounds)), flush=True)
    print()
    print(f"{'functions':>9} {'commit':>10}")
    for functions, name in ((1, "many_one_2"), (1000, "many_thousand_2")):
        print(f"{functions:9,} {statistics.median(commits_of(name, rounds)):10,.0f}", flush=True)


if __name__ == "__main__":
    main()

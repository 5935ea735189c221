# SPDX-License-Identifier: GPL-2.0-or-later
"""How long it takes to change functions that some thread is in at every instant.

    python -m bench.drain [ROUNDS]

Sixteen threads spend all of their time in the functions, in calls of a length, asleep or on a
processor. A patch is applied and reverted, ROUNDS times (30). `command` is the whole time of
`hotpatch apply` as a process of its own, `apply` and `revert` that of the library; all in ms,
median and most. `waited` is how long callers were made to wait at most, `call` the longest call
that a thread made meanwhile, beside `before`, the longest one of a time without a patcher.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import hotpatch
from hotpatch.update.result import Result
from tests.support.programs import Program, patch, running

ROUNDS = 30
LIMIT_S = 1.0
CASES = (("sleeping", 1_000), ("sleeping", 20_000), ("spinning", 1_000), ("recursive", 1_000))


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def command(program: Program) -> None:
    """Apply the patch as a user does."""
    whole = [sys.executable, "-m", "hotpatch", "apply", "-q", str(program.pid), patch("crowd")]
    subprocess.run(whole, check=True)


def waited_us(result: Result) -> int:
    """Return how long callers may have waited in an update."""
    return max((stop.us for stop in result.stops if stop.phase == "drain"), default=0)


def summary(values: list[float]) -> str:
    """Return the median and the most of some seconds, in ms."""
    return f"{statistics.median(values) * 1000:6.0f} {max(values) * 1000:6.0f}"


def measure(mode: str, us: int, rounds: int) -> None:
    """Measure one kind of target, and print a row."""
    with running("crowd", "16", mode, str(us)) as program:
        for _ in range(3):
            program.expect_progress()
        program.ask()
        time.sleep(1)
        before = program.ask()["longest_us"]
        times: dict[str, list[float]] = {"command": [], "apply": [], "revert": []}
        results = []
        for _ in range(rounds):
            times["command"].append(timed(lambda: command(program)))
            hotpatch.revert(program.pid, timeout=60)
            for name, act in (
                ("apply", lambda: hotpatch.apply(program.pid, patch("crowd"), timeout=60)),
                ("revert", lambda: hotpatch.revert(program.pid, timeout=60)),
            ):
                times[name].append(timed(lambda act=act: results.append(act())))  # type: ignore[misc]
        reply = program.expect_progress()
        assert reply["mixed"] == 0
        late = sum(value > LIMIT_S for values in times.values() for value in values)
        print(
            f"{mode:10} {us / 1000:4.0f}  "
            + "  ".join(summary(values) for values in times.values())
            + f"  {max(map(waited_us, results)) / 1000:6.0f} {reply['longest_us'] / 1000:6.0f}"
            f" {before / 1000:6.0f}  {late} of {3 * rounds}",
            flush=True,
        )


def main(rounds: int) -> None:
    """Print the table."""
    print(
        "                    command          apply         revert  waited   call before  over 1 s"
    )
    for mode, us in CASES:
        measure(mode, us, rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the search for suspended coroutines adds to a stop.

    python -m bench.coroutines [ROUNDS]

The first row is a program that has none, with as many threads (3). "Elsewhere": the coroutines are
suspended outside of the function that is patched, but their stacks have words that point into it,
from when they were inside; so each has to be told from one that still is. What is printed is
the median of the stop of the commit, and of the time for the whole update.
"""

from __future__ import annotations

import statistics
import sys
from typing import NamedTuple

import hotpatch
from tests.support.programs import patch, running

ROUNDS = 9
CASES = (
    ("threads", ("2",)),
    *(("coroutines", ("ucontext", stacks, count)) for stacks in ("mapped", "heap")
      for count in ("1", "10", "100")),
)  # fmt: skip


class Row(NamedTuple):
    """Medians for one program."""

    commit_us: float
    elapsed_ms: float


def measure(pid: int, path: str, rounds: int) -> Row:
    """Apply and revert a patch a few times; the first time fills caches and is left out."""
    commits, elapsed = [], []
    for _ in range(rounds + 1):
        result = hotpatch.apply(pid, path, timeout=60)
        hotpatch.revert(pid, timeout=60)
        commits.append([stop.us for stop in result.stops if stop.phase == "commit"][-1])
        elapsed.append(result.elapsed_ms)
    return Row(statistics.median(commits[1:]), statistics.median(elapsed[1:]))


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"{'program':<26} {'commit µs':>10} {'update ms':>10}")
    for name, arguments in CASES:
        with running(name, *arguments) as program:
            if name == "coroutines":
                program.ask("suspend")
                program.ask("step")
            path = patch("compute" if name == "coroutines" else "answer_2")
            row = measure(program.pid, path, rounds)
        what = f"{arguments[2]} elsewhere, {arguments[1]}" if name == "coroutines" else "none"
        print(f"{what:<26} {row.commit_us:>10.0f} {row.elapsed_ms:>10.0f}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs to know whether a thread is in the way, beside the same stop without the check.

    python -m bench.verdict [ROUNDS [THREADS [DEPTH]]]

The target has 1,000 threads, each 50 frames and 16 KiB deep, which sleep. They are outside of the
function in question, but some of them have a word on the stack that points into it, so that these
have to be unwound. In the last but one row one more thread is really inside; in the last one fewer
threads don't sleep but run, so that none is found where it was before. All measurements take turns
on one process; ratios are taken turn by turn, and their medians printed. Compared is the longest
time for which one thread was held:

    floor    in C: stop, read registers and 16 KiB of stack, let go (bench/floor.c)
    stop     the same with hotpatch, and nothing read but registers: no check at all
    first    the stop with the scan, where nothing is known yet of the threads
    verdict  the stop in which the right verdict was known: who is inside, and nobody else
    commit   the stop of a commit, by hotpatch.apply; none where that would be Busy

`stops` is how many it took to get there, at once one after the other, and `ms` the time from the
start of the first to the end of the last, with all the reading of call frame information; an update
waits a little between two stops.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import NamedTuple

import hotpatch
from bench.pause import commit_us, floor_us
from hotpatch.link.scope import functions_named
from hotpatch.linux import procfs
from hotpatch.process.image import Process
from hotpatch.quiescence.ranges import Range, Ranges
from hotpatch.quiescence.stacks import Scanner, StackMap
from hotpatch.update.session import Options, Session
from tests.support.programs import patch, running

ROUNDS, THREADS, DEPTH = 10, 1000, 50
RUNNING = 50
MOST_STOPS = 20


class Verdict(NamedTuple):
    """How a verdict was come to; times in µs, `whole` in ms. No `stops`: it never was right."""

    first: float
    last: float
    stops: int
    whole: float


class Turn(NamedTuple):
    """One turn of each; times in µs. No `commit` where there was none."""

    floor: float
    stop: float
    verdict: Verdict
    commit: float


def compute_of(process: Process) -> Ranges:
    """Return the code of the function in question."""
    ((module, symbol),) = functions_named(process, "compute", None)
    start = module.bias + symbol.value
    return Ranges([Range(start, start + symbol.size + 1, "compute")])


def stop_us(pid: int) -> float:
    """Stop all threads and let them go."""
    with Process(pid) as process:
        session = Session(process, Options())
        with session.looks() as looks, session.hold("stop", looks) as hold:
            pass
    return hold.held_ns / 1e3


def stop_and_judge(session: Session, ranges: Ranges) -> tuple[float, int]:
    """Stop all threads; return for how long, and how many were taken to be inside."""
    process, judge = session.process, session.judge
    mappings = procfs.mappings(process.pid)
    stacks = StackMap(process.pid, mappings)
    scanner = Scanner(process.memory, stacks, ranges)
    judge.follow(mappings)
    with session.looks() as looks, session.hold("verdict", looks, observer=scanner.add) as hold:
        threads = dict(hold.threads)
        blocked = judge.judge(scanner.hits, threads, stacks, ranges)
    judge.learn(threads[thread.tid] for thread in blocked)
    return hold.held_ns / 1e3, len(blocked)


def verdict(pid: int, inside: int) -> Verdict:
    """Stop until it is known that so many threads are inside."""
    with Process(pid) as process:
        ranges = compute_of(process)
        session = Session(process, Options())
        pauses: list[float] = []
        began = time.perf_counter()
        while len(pauses) < MOST_STOPS:
            pause, found = stop_and_judge(session, ranges)
            pauses.append(pause)
            if found == inside:
                whole = time.perf_counter() - began
                return Verdict(pauses[0], pauses[-1], len(pauses), whole * 1e3)
    return Verdict(pauses[0], pauses[-1], 0, (time.perf_counter() - began) * 1e3)


def commit(pid: int) -> float:
    """Apply the patch and revert it; return the pause of the commit."""
    result = hotpatch.apply(pid, patch("compute"), timeout=60)
    hotpatch.revert(pid, timeout=60)
    return commit_us(result)


def turns(pid: int, inside: int, rounds: int) -> list[Turn]:
    """Measure a process in turns; the first one filled caches and is left out."""
    found = []
    for _ in range(rounds + 1):
        found.append(
            Turn(
                floor_us(pid),
                stop_us(pid),
                verdict(pid, inside),
                0.0 if inside else commit(pid),
            )
        )
    return found[1:]


def row(threads: int, stale: int, inside: int, found: list[Turn]) -> str:
    """Return a line of the table."""

    def cell(of: list[float], against: list[float]) -> str:
        ratio = statistics.median(a / b for a, b in zip(of, against, strict=True))
        return f"{statistics.median(of):9,.0f} {ratio:6.2f}" if any(of) else f"{'-':>9} {'-':>6}"

    floors, stops = [t.floor for t in found], [t.stop for t in found]
    judged = [t.verdict for t in found]
    never = sum(not v.stops for v in judged)
    count = f"{statistics.median(v.stops for v in judged):6.0f}" if not never else f" >{MOST_STOPS}"
    return " ".join(
        [
            f"{threads:7,} {stale:6,} {inside:6} {statistics.median(floors):9,.0f}",
            cell(stops, floors),
            cell([v.first for v in judged], stops),
            cell([v.last for v in judged], stops),
            cell([t.commit for t in found], stops),
            f"{count:>6} {statistics.median(v.whole for v in judged):7,.0f}",
        ]
    )


def main() -> None:
    """Print the table."""
    given = [int(argument) for argument in sys.argv[1:]]
    rounds, threads, depth = (*given, *(ROUNDS, THREADS, DEPTH)[len(given) :])
    print(f"{depth} frames deep; median of {rounds} turns, µs")
    print(f"{'threads':>7} {'stale':>6} {'inside':>6} {'floor':>9} {'stop':>9} {'/floor':>6} "
          f"{'first':>9} {'/stop':>6} {'verdict':>9} {'/stop':>6} {'commit':>9} {'/stop':>6} "
          f"{'stops':>6} {'ms':>7}")  # fmt: skip
    counts = [0, *(k for k in (1, 10, 100) if k < threads), threads]
    rows = [*((threads, k, 0, "") for k in counts), (threads, threads, 1, "")]
    for count, stale, inside, spinning in (*rows, (RUNNING, RUNNING, 0, "spinning")):
        arguments = [str(number) for number in (count, depth, stale, inside)]
        with running("deep", *arguments, *spinning.split()) as program:
            program.expect_progress()  # all are at the bottom
            print(row(count, stale, inside, turns(program.pid, inside, rounds)), flush=True)


if __name__ == "__main__":
    main()

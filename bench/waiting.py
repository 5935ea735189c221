# SPDX-License-Identifier: GPL-2.0-or-later
"""What an update that waits in vain costs its target, in percent of its work.

    python -m bench.waiting [ROUNDS [SECONDS]]

A patch is applied that can't be, as some thread never leaves the function, with a --timeout of 10
seconds. The work that the target does meanwhile is compared with what it does right before and
after that, for half as long each: the windows take turns, ROUNDS times.

    inside    every thread is in the function for ever, and works there
    beside    one thread sleeps in it, the others work elsewhere
    calling   one thread sleeps in it, the others call it for each microsecond of work
    kv        the key-value server under load; a worker without load sleeps in INCR, or spins there

`loss` is that of the whole windows, `typical` that of the median quarter of a second in them, with
the least and the most of all rounds. A machine that does other things as well does them in some
windows and not in others, so both may say more of that. What there is to lose can be told apart
from it, in percent of the time waited, median over the rounds:

    stopped  how much of the time a thread of the target could not run, on average, as the kernel
             counts it (schedstat): neither was it on a processor nor did it wait for one; less what
             that was in the windows without. A wait is counted at its end, so where a hundred
             threads share few processors this says little.
    held     the sum of all stops, by the patcher's account: of the longest that a thread was held,
             with the time from the request until it stopped, in which it may have been running
    cpu      the processor time of the patcher, of one processor
    cost     what the target can have lost at most: `held`, and the patcher's share of all
             processors, if the target leaves none idle

`stops` are those in the time waited, `tries` what the update counts as attempts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import hotpatch
from hotpatch.linux.threads import Hold
from tests.support.programs import BENCH, ROOT, Program, build, patch, read_line, running
from tests.targets import servers

ROUNDS, SECONDS = 3, 10.0
SAMPLE = 0.25
THREADS = (1, 16, 100)
KV_WORKERS = 3  # and one that is blocked

Count = Callable[[], int]


class Target(NamedTuple):
    """A process, the work that it has done, and for how long its threads could run, in ns.

    Each of its `threads` would run all the time if it could; where they wouldn't, there are none.
    """

    pid: int
    work: Count
    runnable: Count
    threads: int


class Look(NamedTuple):
    """A target at some moment."""

    at: float
    work: int
    runnable: int


class Window(NamedTuple):
    """The work done a second: in the whole of a window, and in the median piece of it.

    `stopped` is which part of the time a thread could not run.
    """

    whole: float
    typical: float
    stopped: float


class Wait(NamedTuple):
    """What the patcher says of one update that waited in vain; seconds, by time.perf_counter."""

    began: float
    ended: float
    attempts: int
    stops: int
    held: float
    cpu: float


class Loss(NamedTuple):
    """What a target lost in one round, in percent."""

    whole: float
    typical: float
    stopped: float
    held: float
    cpu: float
    stops: int
    attempts: int


# ---- The patcher, in a process of its own ----


def wait_in_vain(pid: int, path: str, timeout: float) -> None:
    """Apply a patch that can't be; print a line when the waiting begins, and what it came to."""
    held_ns: list[int] = []
    seen: list[tuple[float, float, float]] = []  # at each try: time, processor time, stops so far
    release = Hold.release
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):  # planning takes its time beside a hundred threads
        os.setpriority(os.PRIO_PROCESS, 0, -15)

    def count_release(hold: Hold) -> None:
        release(hold)
        if hold.held_ns:
            held_ns.append(hold.held_ns)

    def note(_: hotpatch.Progress) -> None:
        if not seen:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
            print("waiting", flush=True)
            held_ns.clear()
        seen.append((time.perf_counter(), time.process_time(), len(held_ns)))

    setattr(Hold, "release", count_release)  # noqa: B010 - no type has that
    try:
        hotpatch.apply(pid, path, timeout, on_progress=note)
        outcome, attempts = "applied", 0
    except hotpatch.Busy as error:
        outcome, attempts = error.reason, error.attempts
    first, last = seen[0], seen[-1]
    stops = int(last[2])
    held, cpu = sum(held_ns[:stops]) / 1e9, last[1] - first[1]
    wait = Wait(first[0], last[0], attempts, stops, held, cpu)
    print(json.dumps({"outcome": outcome, **wait._asdict()}), flush=True)


@contextmanager
def patcher(pid: int, path: str, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run the above, from the moment when it waits."""
    command = [sys.executable, "-m", "bench.waiting", "--apply", str(pid), path, str(seconds)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        line = read_line(child, 120)
        assert line == "waiting\n", line
        yield child
    finally:
        child.kill()
        child.communicate()


# ---- Windows ----


class Looks:
    """A target, looked at now and then."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._seen: list[Look] = []

    def take(self, until: Callable[[], bool]) -> None:
        """Look at it until then, and three times at least."""
        self._look()
        while len(self._seen) < 3 or not until():
            time.sleep(SAMPLE)
            self._look()

    def window(self, began: float = 0, ended: float = math.inf) -> Window:
        """Return what was between two times, as far as it was looked at."""
        seen = [look for look in self._seen if began <= look.at <= ended]
        rates = [(b.work - a.work) / (b.at - a.at) for a, b in pairwise(seen)]
        first, last = seen[0], seen[-1]
        seconds = last.at - first.at
        could = (last.runnable - first.runnable) / 1e9
        stopped = 1 - could / seconds / self._target.threads if self._target.threads else math.nan
        return Window((last.work - first.work) / seconds, statistics.median(rates), stopped)

    def _look(self) -> None:
        target = self._target
        self._seen.append(Look(time.perf_counter(), target.work(), target.runnable()))


def window_of(target: Target, seconds: float) -> Window:
    """Look at a target for some time."""
    looks = Looks(target)
    end = time.perf_counter() + seconds - SAMPLE
    looks.take(lambda: time.perf_counter() >= end)
    return looks.window()


def window_of_wait(target: Target, path: str, seconds: float) -> tuple[Window, Wait]:
    """Look at it while an update waits."""
    looks = Looks(target)
    with patcher(target.pid, path, seconds) as child:
        assert child.stdout is not None
        output = child.stdout.fileno()
        looks.take(lambda: bool(select.select([output], [], [], 0)[0]))
        told: dict[str, Any] = json.loads(read_line(child))
    outcome = told.pop("outcome")
    wait = Wait(**told)
    assert "applied" not in outcome and wait.ended - wait.began > 4 * SAMPLE, outcome
    return looks.window(wait.began, wait.ended), wait


def rounds_of(target: Target, path: str, rounds: int, seconds: float) -> list[Loss]:
    """Take turns between windows without and with an update that waits; in percent."""
    found = []
    window_of(target, 1)
    before = window_of(target, seconds / 2)
    for _ in range(rounds):
        window, wait = window_of_wait(target, path, seconds)
        after = window_of(target, seconds / 2)
        parts = (
            1 - 2 * window.whole / (before.whole + after.whole),
            1 - 2 * window.typical / (before.typical + after.typical),
            window.stopped - (before.stopped + after.stopped) / 2,
            wait.held / (wait.ended - wait.began),
            wait.cpu / (wait.ended - wait.began),
        )
        whole, typical, stopped, held, cpu = (100 * part for part in parts)
        found.append(Loss(whole, typical, stopped, held, cpu, wait.stops, wait.attempts))
        before = after
    return found


# ---- Targets ----


def busy(program: Program) -> Target:
    """Return what looks at the program without asking it: it is busy."""
    reply = program.expect_progress(timeout=60)
    tids, stride = reply["tids"], reply["stride"]
    memory = os.open(f"/proc/{program.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    units = struct.Struct(f"q{stride - 8}x")

    def work() -> int:
        content = os.pread(memory, len(tids) * stride, reply["counters"])
        return sum(one for (one,) in units.iter_unpack(content))

    def runnable() -> int:
        times = [Path(f"/proc/{program.pid}/task/{t}/schedstat").read_text().split() for t in tids]
        return sum(int(running) + int(waiting) for running, waiting, _ in times)

    return Target(program.pid, work, runnable, len(tids))


@contextmanager
def kv_server(how: str) -> Iterator[Target]:
    """Run the key-value server under load, with one worker that never leaves INCR."""
    server = servers.Program("kv-v1", "--threads", str(KV_WORKERS + 1))
    load = None
    try:
        port = server.ready()["port"]
        connections = str(KV_WORKERS)  # one for each worker but the last, which gets ours
        options = ("--connections", connections, "--rate", "0", "--seconds", "3600")
        load = servers.Load("kvload", "--port", port, *options)
        load.ready()
        hotpatch.apply(server.pid, str(build(BENCH) / "kv_blocking.so"), timeout=60)
        with servers.Connection(int(port)) as connection:
            connection.send(f"INCR {how}\n".encode())
            yield Target(server.pid, partial(requests_of, load), lambda: 0, 0)
    finally:
        for program in (load, server):
            if program is not None:
                program.kill()
                program.end()


def requests_of(load: servers.Load) -> int:
    """Ask a load generator how many requests were answered."""
    load.process.send_signal(signal.SIGUSR1)
    fields = load.line().split()
    assert fields[0] == "PROGRESS", fields
    return int(fields[1].partition("=")[2])


# ---- The table ----


def row(name: str, threads: int, found: list[Loss]) -> str:
    """Return a line of it."""

    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):6.2f} {min(values):6.2f} {max(values):6.2f}"

    losses, typical, *others = zip(*found, strict=True)
    stopped, held, cpu, stops, attempts = (statistics.median(values) for values in others)
    cost = held + cpu / len(os.sched_getaffinity(0))
    return (
        f"{name:12} {threads:7} {spread(list(losses))}   {spread(list(typical))}   "
        f"{stopped:7.2f} {held:6.2f} {cpu:6.2f} {cost:6.2f} {stops:6.0f} {attempts:6.0f}"
    )


def main() -> None:
    """Print it."""
    if sys.argv[1:2] == ["--apply"]:
        wait_in_vain(int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    print(f"percent; {rounds} rounds, waiting for {seconds:g} s each")
    print(f"{'':12} {'threads':>7} {'loss':>6} {'least':>6} {'most':>6}  {'typical':>6} "
          f"{'least':>6} {'most':>6}   {'stopped':>7} {'held':>6} {'cpu':>6} {'cost':>6} "
          f"{'stops':>6} {'tries':>6}")  # fmt: skip
    for mode in ("inside", "beside", "calling"):
        for threads in THREADS:
            with running("busy", str(threads), mode) as program:
                found = rounds_of(busy(program), patch("compute"), rounds, seconds)
            print(row(mode, threads, found), flush=True)
    fix = str(ROOT / "targets" / "build" / "patches" / "kv-v1-v2.so")
    for how in ("asleep", "running"):
        with kv_server(how) as target:
            found = rounds_of(target, fix, rounds, seconds)
        print(row(f"kv, {how}", KV_WORKERS + 2, found), flush=True)


if __name__ == "__main__":
    main()

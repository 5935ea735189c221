# SPDX-License-Identifier: GPL-2.0-or-later
"""What a probation costs the target.

    python -m bench.probation [SECONDS]

The key-value server under full load is patched, without and with a probation, by turns: requests a
second as the load generator counts them, and the ratio. Then the program with timers of 200 us:
signals a second without and with one, which each stop the thread that gets them.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from contextlib import suppress

import hotpatch
from tests.support.programs import ROOT, Program, patch, running
from tests.targets.servers import Load
from tests.targets.servers import Program as Server

SECONDS = 3
ROUNDS = 3
RATE = 1_000_000  # requests a second: more than there can be
_PATCH = str(ROOT / "targets" / "build" / "patches" / "kv-v1-v2.so")


def requests(seconds: int, watched: bool) -> float:
    """Return the requests a second that a patched server answers."""
    server = Server("kv-v1", "--threads", "2")
    try:
        port = server.ready()["port"]
        hotpatch.apply(server.pid, _PATCH)
        hotpatch.revert(server.pid)
        options = ("--connections", "16", "--rate", str(RATE), "--seconds", str(seconds))
        load = Load("kvload", "--port", port, *options)
        try:
            load.ready()
            apply(server.pid, _PATCH, seconds + 1 if watched else None)
            return float(load.result()["requests"]) / seconds
        finally:
            load.end()
    finally:
        server.end()


def apply(pid: int, path: str, probation: float | None) -> None:
    """Apply a patch; a probation goes on in the background, until its time is over."""

    def run() -> None:
        with suppress(hotpatch.Gone):  # the server is ended before the probation is
            hotpatch.apply(pid, path, probation=probation)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if probation is None:
        thread.join()


def signals(program: Program, seconds: int, watched: bool) -> float:
    """Return the signals a second that a program gets."""

    def counted() -> int:
        return sum(row["counted"] for row in program.ask()["timers"])

    apply(program.pid, patch("answer_original"), seconds + 0.5 if watched else None)
    before = counted()
    time.sleep(seconds)
    found = (counted() - before) / seconds
    if watched:
        time.sleep(1)
    hotpatch.revert(program.pid)
    return found


def main() -> None:
    """Measure, and print."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for watched, found in rates.items():
            found.append(requests(seconds, watched))
    plain, watched_rate = (statistics.median(found) for found in rates.values())
    print(f"kv      {plain:9.0f} requests/s, with a probation {watched_rate:9.0f}: "
          f"{watched_rate / plain:.3f}")  # fmt: skip
    with running("timer") as program:
        counted = [signals(program, seconds, watched) for watched in (False, True)]
    print(f"timers  {counted[0]:9.0f} signals/s,  with a probation {counted[1]:9.0f}: "
          f"{counted[1] / counted[0]:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()

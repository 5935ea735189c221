# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: a web server under load is patched to its next versions and back, while it serves.

    python -m targets.demo

The load comes from `webload`: eight connections that stay open, every byte of every answer checked,
and whether each answer is wholly of the version that it names. A request over SLOW_MS is counted as
slow. The exit status is 0 if no request failed, no connection was lost, and every answer changed
when it should.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.targets.servers import BUILD, Connection, Load, Program

CONNECTIONS, RATE, SLOW_MS = 8, 2000, 100
SECONDS_EACH = 2  # of load after each step
LAST = "bytes=-3"  # of ten.txt, which has "0123456789"


class Step(NamedTuple):
    """A command, or none, and what the server has to answer after it."""

    command: str
    patch: str
    version: str
    last_three: str
    tags: bool


STEPS = (
    Step("", "", "web/1", "6789", False),
    Step("apply", "web-v1-v2.so", "web/2", "789", False),
    Step("apply", "web-v2-v3.so", "web/3", "789", True),
    Step("revert", "", "web/2", "789", False),
    Step("revert", "", "web/1", "6789", False),
)
HEADINGS = (
    "hotpatch",
    "pause",
    "requests",
    "failed",
    "dropped",
    "slow",
    "Server",
    "bytes=-3",
    "ETag",
)
COLUMNS = "{:<25} {:>8} {:>9} {:>6} {:>7} {:>4}   {:<6}  {:<8}  {}"


class Demo:
    """The server, its load, and a connection of our own to look at the answers."""

    def __init__(self, server: Program, load: Load, connection: Connection) -> None:
        self._pid = server.pid
        self._load = load
        self._connection = connection
        self._counted: dict[str, int] = {}

    def carry_out(self, step: Step) -> bool:
        """Run a step's command, let the load go on for a while, print a line; was all well?"""
        pause = "-"
        if step.command:
            patch = [os.path.join(BUILD, "patches", step.patch)] if step.patch else []
            result = hotpatch(step.command, str(self._pid), *patch)
            pause = f"{result['pause_us']} us" if "pause_us" in result else result["status"]
        seen = self._answers(step)
        counts = self._progress()
        name = f"{step.command} {step.patch}" if step.command else "(as started)"
        answers = (seen.version, f'"{seen.last_three}"', "yes" if seen.tags else "no")
        print(COLUMNS.format(name, pause, *counts.values(), *answers), flush=True)
        return seen == step and not counts["failures"] and not counts["dropped"]

    def _answers(self, step: Step) -> Step:
        """Ask as a client would."""
        answer = self._connection.request("/ten.txt", Range=LAST)
        return step._replace(
            version=answer.headers["server"],
            last_three=answer.body.decode(),
            tags="etag" in answer.headers,
        )

    def _progress(self) -> dict[str, int]:
        """Wait for the load; return what it has counted since the last time."""
        for _ in range(SECONDS_EACH):
            line = self._load.line()
        fields = dict(field.split("=") for field in line.split()[1:])
        now = {name: int(fields[name]) for name in ("requests", "failures", "dropped", "slow")}
        since = {name: count - self._counted.get(name, 0) for name, count in now.items()}
        self._counted = now
        return since


def hotpatch(*arguments: str) -> dict[str, Any]:
    """Run the command; return what it says."""
    command = [sys.executable, "-m", "hotpatch", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def running(program: Program) -> Iterator[Program]:
    """See to a program's end."""
    try:
        yield program
    finally:
        program.end()


def demo(root: str) -> bool:
    """Serve files below `root`, patch, print; return whether all went well."""
    subprocess.run([os.path.join(BUILD, "webload"), "--make", root], check=True)
    with open(os.path.join(root, "ten.txt"), "w", encoding="ascii") as file:
        file.write("0123456789")
    with running(Program("web-v1", "--root", root)) as server:
        port = server.ready()["port"]
        options = ["--connections", str(CONNECTIONS), "--rate", str(RATE), "--progress"]
        options += ["--slow-ms", str(SLOW_MS), "--seconds", "600"]
        load = Load("webload", "--port", port, *options)
        with running(load), Connection(int(port)) as connection:
            load.ready()
            print(f"web server {server.pid}: {CONNECTIONS} connections, {RATE} requests a second\n")
            print(COLUMNS.format(*HEADINGS))
            steps = Demo(server, load, connection)
            outcomes = [steps.carry_out(step) for step in STEPS]
            load.process.terminate()
            total = load.result()
    latency = total["latency_us"]
    print(
        f"\n{total['requests']} requests: {total['failures']} failed, {total['slow']} took over "
        f"{SLOW_MS} ms; {total['dropped']} connections lost\n"
        f"latency: median {latency['median']} us, longest {latency['max']} us"
    )
    return all(outcomes) and total["status"] == 0


def main() -> int:
    """Run the demo in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        well = demo(os.path.join(directory, "root"))
    if not well:
        print("demo: not as it should be", file=sys.stderr)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())

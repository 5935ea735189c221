# SPDX-License-Identifier: GPL-2.0-or-later
"""A key-value server with a million entries, each of which grows.

    python -m bench.transfer [ENTRIES]

kv/2 becomes kv/3, whose entries have two members more, while clients ask it. `loop` is the time of
the copying itself, as the process measures it; `pause` the longest stop. First by a transfer that
could be taken back at every instant, then by the same loop in plain C, with calloc, free and
assignments, run at the same place. Beside it, what is done without hotpatch: all entries are read
through the protocol, the server is started anew as kv/3, and all are written again; for that time
it answers nobody, or not with its data.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import hotpatch
from tests.support.programs import BENCH, build
from tests.targets.servers import Connection, Load, Program

ENTRIES = 1_000_000
_CHUNK = 2_000
_VALUE = "v" * 40


class Server(NamedTuple):
    """A key-value server, and its port."""

    program: Program
    port: int


@contextmanager
def serving(name: str) -> Iterator[Server]:
    """Start a server, and end it."""
    program = Program(name, "--threads", "4")
    try:
        yield Server(program, int(program.ready()["port"]))
    finally:
        program.end()


def pipeline(port: int, lines: Iterator[str]) -> None:
    """Send requests, many at a time, and wait for the answer of each."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        chunk: list[str] = []

        def flush() -> None:
            connection.sendall("".join(chunk).encode())
            left = len(chunk)
            while left:
                left -= connection.recv(1 << 16).count(b"\n")
            chunk.clear()

        for line in lines:
            chunk.append(line)
            if len(chunk) == _CHUNK:
                flush()
        flush()


def fill(port: int, entries: int) -> float:
    """Write all entries; return the seconds it took."""
    began = time.perf_counter()
    pipeline(port, (f"SET key{number} {_VALUE}\n" for number in range(entries)))
    return time.perf_counter() - began


def read(port: int, entries: int) -> float:
    """Read all entries; return the seconds it took."""
    began = time.perf_counter()
    pipeline(port, (f"GET key{number}\n" for number in range(entries)))
    return time.perf_counter() - began


def resident_mib(pid: int) -> int:
    """Return the memory of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) >> 10
    return 0


def patched(name: str, entries: int) -> float:
    """Apply one of the patches under load, print its row; return the loop's time."""
    with serving("kv-v2") as server:
        fill(server.port, entries)
        options = ("--connections", "8", "--rate", "2000", "--seconds", "3600")
        load = Load("kvload", "--port", str(server.port), *options)
        try:
            load.ready()
            before = resident_mib(server.program.pid)
            result = hotpatch.apply(
                server.program.pid,
                str(build(BENCH) / f"kv_{name}.so"),
                timeout=60,
                transfer_timeout=60,
                rehearse=False,
            )
            after = resident_mib(server.program.pid)
            with Connection(server.port) as connection:
                assert connection.ask("VERSION") == "VERSION kv/3"
                assert connection.ask(f"GET key{entries - 1}") == f"VALUE {_VALUE}"
                assert connection.ask(f"TTL key{entries - 1}") == "VALUE -1"
            load.process.terminate()
            counted = load.result()
        finally:
            load.end()
    loop = int(re.findall(r"(\d+) us for", " ".join(result.messages))[0]) / 1e3
    failed = sum(counted[key] for key in ("failures", "dropped", "refused"))
    print(
        f"{name:9} {loop:8.1f} {result.pause_us / 1e3:8.1f} {before:6d} {after:6d}"
        f"   {counted['requests']} requests, {failed} failed",
        flush=True,
    )
    return loop


def restarted(entries: int) -> float:
    """Read all, start anew, write all; print the row and return the seconds without the data."""
    with serving("kv-v2") as server:
        fill(server.port, entries)
        saving = read(server.port, entries)
    began = time.perf_counter()
    with serving("kv-v3") as server:
        starting = time.perf_counter() - began
        loading = fill(server.port, entries)
    begun = f"starting {starting * 1e3:.1f} ms"
    print(f"restart   saving {saving:.1f} s, {begun}, loading {loading:.1f} s")
    return saving + starting + loading


def main() -> None:
    """Measure, and print."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES
    print(f"{entries} entries\n             loop    pause    MiB  after   (ms)")
    logged, plain = patched("logged", entries), patched("plain", entries)
    print(f"the loop with a log takes {logged / plain:.2f} times the plain one")
    restart = restarted(entries)
    print(f"a restart takes {restart * 1e3 / logged:.0f} times the loop with a log")


if __name__ == "__main__":
    main()

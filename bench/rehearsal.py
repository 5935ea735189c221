# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rehearsal costs a server with data: Debian's redis-server with 100 MB.

    python -m bench.rehearsal [MB]

A client asks PING all the time. A patch whose transfer allocates and writes 10 MB is applied and
reverted, without and with a rehearsal, five times each by turns. `apply` is the time of the
library's call, `longest` the longest PING meanwhile, beside `idle`, the longest of a time as long
without a patcher; `replica` what the rehearsal itself reports: its time, the memory that the
replica had of its own, and the longest time for which the server was held for it.
"""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import hotpatch
from hotpatch.update.result import Result
from tests.support.programs import BENCH, build

SERVER = "/usr/bin/redis-server"
MEGABYTES = 100
ROUNDS = 5
_VALUE = 1000


class Redis(NamedTuple):
    """A server, and its socket."""

    pid: int
    path: str


@contextmanager
def redis(megabytes: int) -> Iterator[Redis]:
    """Start a server with data, and end it."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        options = ("--port", "0", "--unixsocket", path, "--dir", directory, "--save", "")
        more = ("--enable-debug-command", "yes", "--daemonize", "no")
        server = subprocess.Popen([SERVER, *options, *more], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            while "ready to accept" not in server.stdout.readline():
                assert server.poll() is None
            keys = megabytes * 1_000_000 // (_VALUE + 100)
            populate = ["debug", "populate", str(keys), "key", str(_VALUE)]
            subprocess.run(["redis-cli", "-s", path, *populate], check=True, capture_output=True)
            yield Redis(server.pid, path)
        finally:
            server.kill()
            server.wait()


def ping(path: str, orders: Connection) -> None:
    """Ask PING all the time; answer an order with the longest that it took since the last one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        longest = 0.0
        while True:
            began = time.perf_counter()
            connection.sendall(b"PING\r\n")
            connection.recv(100)
            longest = max(longest, time.perf_counter() - began)
            if orders.poll():
                if not orders.recv():
                    return
                orders.send(longest)
                longest = 0.0


def rss_mib(pid: int) -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20


def main() -> None:
    """Measure, and print."""
    if not shutil.which(SERVER):
        sys.exit("there is no redis-server")
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES
    patch = str(build(BENCH) / "rehearsal.so")
    with redis(megabytes) as server:
        ours, theirs = multiprocessing.Pipe()
        client = multiprocessing.Process(target=ping, args=(server.path, theirs), daemon=True)
        client.start()

        def longest() -> float:
            ours.send(True)
            return float(ours.recv()) * 1e3

        print(
            f"{rss_mib(server.pid)} MiB in the server\n             apply  longest     idle  (ms)"
        )
        rows: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        results: list[Result] = []
        for number in range(2 * ROUNDS):
            rehearse = bool(number % 2)
            longest()
            began = time.perf_counter()
            result = hotpatch.apply(server.pid, patch, rehearse=rehearse)
            took = time.perf_counter() - began
            busy = longest()
            hotpatch.revert(server.pid)
            longest()
            time.sleep(took)
            rows[rehearse].append((took * 1e3, busy, longest()))
            if rehearse:
                results.append(result)
        for rehearse, found in rows.items():
            medians = "".join(
                f"{statistics.median(column):9.2f}" for column in zip(*found, strict=True)
            )
            print(f"{'rehearsed' if rehearse else 'at once':9}{medians}")
        seen = [result.rehearsal for result in results if result.rehearsal]
        print(
            f"replica: {statistics.median(r.us for r in seen) / 1e3:.2f} ms for the transfer and "
            f"its reverse, {max(r.private_kib for r in seen) / 1024:.1f} MiB of its own, server "
            f"held for {max(r.stall_us for r in seen) / 1e3:.2f} ms at most"
        )
        ours.send(False)
        client.join()


if __name__ == "__main__":
    main()

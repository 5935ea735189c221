# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's redis-server, as it comes from its package, patched while a benchmark runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hotpatch
from tests.support.programs import ROOT
from tests.targets.servers import Program

SERVER = "/usr/bin/redis-server"
PATCH = str(ROOT / "targets" / "build" / "patches" / "redis-keys.so")
TESTS = ("ping_mbulk", "set", "get", "incr")
REQUESTS = 60_000  # of each of them

pytestmark = pytest.mark.skipif(not shutil.which(SERVER), reason="no redis-server")


class Redis:
    """A server in a directory of its own: no port, no persistence."""

    def __init__(self, server: Program, socket: Path) -> None:
        self.pid = server.pid
        self.socket = str(socket)
        while "ready to accept connections" not in server.line():
            assert server.process.poll() is None

    def ask(self, *command: str) -> str:
        cli = ["redis-cli", "-s", self.socket, *command]
        return subprocess.run(cli, capture_output=True, text=True, check=True).stdout.strip()


class Benchmark:
    """A run of redis-benchmark, which ends at the first error that it is answered."""

    def __init__(self, redis: Redis) -> None:
        command = ["redis-benchmark", "-s", redis.socket, "-c", "8", "-n", str(REQUESTS), "--csv"]
        self._process = subprocess.Popen(
            [*command, "-t", ",".join(TESTS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def runs(self) -> bool:
        return self._process.poll() is None

    def expect_no_error(self) -> None:
        """It came to its end, and measured all that it was asked to."""
        output = self._process.communicate()[0]
        assert self._process.returncode == 0, output
        measured = [line.split(",")[0].strip('"').lower() for line in output.splitlines()[1:]]
        assert measured == list(TESTS), output

    def end(self) -> None:
        if self.runs():
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def redis(start: Callable[..., Any], tmp_path: Path) -> Redis:
    options = {"port": "0", "unixsocket": str(tmp_path / "redis.sock"), "dir": str(tmp_path)}
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    return Redis(start(SERVER, *arguments, "--save", ""), tmp_path / "redis.sock")


@pytest.fixture
def benchmark(redis: Redis) -> Iterator[Benchmark]:
    running = Benchmark(redis)
    yield running
    running.end()


def test_patched_under_its_benchmark(redis: Redis, benchmark: Benchmark) -> None:
    redis.ask("SET", "answer", "42")
    cycles = 0
    while benchmark.runs():
        hotpatch.apply(redis.pid, PATCH, timeout=30)
        assert redis.ask("KEYS", "ans*").startswith("ERR KEYS is off on this server, use SCAN")
        hotpatch.revert(redis.pid, timeout=30)
        assert redis.ask("KEYS", "ans*") == "answer"
        cycles += 1
    benchmark.expect_no_error()
    assert cycles
    assert redis.ask("GET", "answer") == "42"


def test_the_new_functions_are_what_runs(redis: Redis) -> None:
    hotpatch.apply(redis.pid, PATCH)
    for _ in range(3):
        assert redis.ask("PING") == "PONG"
    assert redis.ask("KEYS", "*").endswith("(3 pings since)")


def test_by_command(redis: Redis) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "hotpatch", *arguments, "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    pid = str(redis.pid)
    assert run("check", pid, PATCH)["status"] == "ok"
    applied = run("apply", pid, PATCH)
    assert {function["name"] for function in applied["functions"]} == {"pingCommand", "keysCommand"}
    assert [patch["state"] for patch in run("list", pid)["patches"]] == ["applied"]
    assert redis.ask("KEYS", "*").startswith("ERR KEYS is off")
    assert run("revert", pid)["status"] == "reverted"
    assert redis.ask("KEYS", "*") == ""

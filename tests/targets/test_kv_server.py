# SPDX-License-Identifier: GPL-2.0-or-later
"""The key-value server: its commands, its threads, and what tells one version from the next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.targets.servers import Connection, attempts

Serve = Callable[..., int]
VERSIONS = (1, 2, 3)


@pytest.fixture
def serve(start: Callable[..., Any]) -> Serve:
    """Starts a version; its port."""
    return lambda version, *options: int(start(f"kv-v{version}", *options).ready()["port"])


@pytest.fixture(params=VERSIONS, ids=lambda version: f"kv{version}")
def port(request: pytest.FixtureRequest, serve: Serve) -> int:
    return serve(request.param)


def stats_of(connection: Connection) -> dict[str, str]:
    line = connection.ask("STATS")
    stats = {}
    while line != "END":
        word, name, value = line.split(" ")
        assert word == "STAT"
        stats[name] = value
        line = connection.line()
    return stats


def wakeups_of(connection: Connection) -> list[int]:
    """How often each worker woke up."""
    workers = [value for name, value in stats_of(connection).items() if name.startswith("worker.")]
    return [int(value.split("wakeups=")[1].split(",")[0]) for value in workers]


def test_commands(port: int) -> None:
    with Connection(port) as c:
        assert c.ask("PING") == "PONG"
        assert c.ask("GET a") == "NONE"
        assert c.ask("SET a one two  three") == "OK"
        assert c.ask("GET a") == "VALUE one two  three"
        assert c.ask("SET a") == "OK"
        assert c.ask("GET a") == "VALUE "
        assert c.ask("DEL a") == "OK"
        assert c.ask("DEL a") == "NONE"
        assert c.ask("INCR n") == "VALUE 1"
        assert c.ask("INCR n -5") == "VALUE -4"
        assert c.ask("INCR n") == "VALUE -3"
        assert c.ask("GET") == "ERR no key"
        assert c.ask("FROB x") == "ERR unknown command"
        assert c.ask("PING\r") == "PONG"
        assert stats_of(c)["keys"] == "1"


def test_many_lines_at_once(port: int) -> None:
    value = "v" * 7000
    with Connection(port) as c:
        c.send(f"SET a {value}\n".encode() + b"GET a\n" * 200 + b"PI")
        assert c.line() == "OK"
        assert {c.line() for _ in range(200)} == {f"VALUE {value}"}
        assert c.ask("NG") == "PONG"


def test_a_line_that_is_too_long_ends_the_connection(port: int) -> None:
    with Connection(port) as c:
        c.send(b"x" * 8192)
        assert c.closed()
    with Connection(port) as c:
        assert c.ask("PING") == "PONG"


def test_increments_from_many_connections_all_count(port: int) -> None:
    def add(_: int) -> None:
        with Connection(port) as c:
            c.send(b"INCR sum\n" * 500)
            for _ in range(500):
                assert c.line().startswith("VALUE ")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    with Connection(port) as c:
        assert c.ask("GET sum") == "VALUE 4000"
        assert stats_of(c)["connections"] == "1"


def test_every_worker_makes_progress_unasked(serve: Serve) -> None:
    with Connection(serve(1, "--threads", "5")) as c:
        before = wakeups_of(c)
        assert len(before) == 5
        for _ in attempts():
            if all(now > then for now, then in zip(wakeups_of(c), before, strict=True)):
                break
        assert all(
            value.endswith("interrupted=0")
            for name, value in stats_of(c).items()
            if name.startswith("worker.")
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_version(serve: Serve, version: int) -> None:
    with Connection(serve(version)) as c:
        assert c.ask("VERSION") == f"VERSION kv/{version}"
        assert stats_of(c)["version"] == str(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_sigterm_ends_it_cleanly(start: Callable[..., Any], version: int) -> None:
    server = start(f"kv-v{version}")
    with Connection(int(server.ready()["port"])) as c:
        assert c.ask("PING") == "PONG"
        assert server.stop() == 0
        assert c.closed()


# ---- From version to version ----


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("value", "by"), [("word", ""), ("12 monkeys", ""), ("", ""), ("1", "x"), (str(2**63 - 1), "1")]
)
def test_incr_of_what_is_no_number(serve: Serve, version: int, value: str, by: str) -> None:
    with Connection(serve(version)) as c:
        c.ask(f"SET a {value}")
        answer = c.ask(f"INCR a {by}" if by else "INCR a")
        if version == 1:
            assert answer.startswith("VALUE ")  # taken for a number: wrong
            return
        assert answer == "ERR not a number"
        assert c.ask("GET a") == f"VALUE {value}"


def test_kv1_destroys_a_word(serve: Serve) -> None:
    with Connection(serve(1)) as c:
        c.ask("SET a word")
        assert c.ask("INCR a") == "VALUE 1"
        assert c.ask("GET a") == "VALUE 1"


@pytest.mark.parametrize("version", [1, 2])
def test_keys_do_not_expire_before_kv3(serve: Serve, version: int) -> None:
    with Connection(serve(version)) as c:
        assert c.ask("EXPIRE a 1") == "ERR unknown command"


def test_keys_expire_in_kv3(serve: Serve) -> None:
    with Connection(serve(3)) as c:
        assert c.ask("EXPIRE a 10") == "NONE"
        assert c.ask("TTL a") == "NONE"
        c.ask("SET a 1")
        assert c.ask("TTL a") == "VALUE -1"
        assert c.ask("EXPIRE a 10") == "OK"
        assert c.ask("TTL a") == "VALUE 10"
        assert c.ask("INCR a") == "VALUE 2"
        assert c.ask("TTL a") == "VALUE 10"
        assert c.ask("EXPIRE a soon") == "ERR not a number of seconds"
        assert c.ask("EXPIRE a 0") == "OK"
        assert c.ask("GET a") == "NONE"
        assert stats_of(c)["keys"] == "0"
        c.ask("SET a 1")
        assert c.ask("TTL a") == "VALUE -1"

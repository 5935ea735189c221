# SPDX-License-Identifier: GPL-2.0-or-later
"""The key-value server, all of its workers busy, patched and reverted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import hotpatch
from tests.servers import footprint
from tests.support.programs import ROOT
from tests.targets.servers import Connection, Load, attempts

FIX = str(ROOT / "targets" / "build" / "patches" / "kv-v1-v2.so")
GROW = str(ROOT / "targets" / "build" / "patches" / "kv-v2-v3.so")
WORKERS = 4


class Store(NamedTuple):
    """A server of version 1 under load, and a connection to it."""

    pid: int
    load: Load
    connection: Connection

    def increment_word(self) -> str:
        """What it says to an INCR of a value that is no number."""
        self.connection.ask("SET word word")
        return self.connection.ask("INCR word")

    def workers(self) -> list[dict[str, int]]:
        """What each worker counts."""
        self.connection.send(b"STATS\n")
        found = []
        while (line := self.connection.line()) != "END":
            _, name, value = line.split(" ")
            if name.startswith("worker."):
                fields = (field.split("=") for field in value.split(","))
                found.append({key: int(number) for key, number in fields})
        return found


@pytest.fixture
def store(start: Callable[..., Any]) -> Iterator[Store]:
    server = start("kv-v1", "--threads", str(WORKERS))
    port = server.ready()["port"]
    options = ("--connections", "8", "--rate", "2000", "--seconds", "3600")
    load = start("kvload", "--port", port, *options, kind=Load)
    load.ready()
    with Connection(int(port)) as connection:
        yield Store(server.pid, load, connection)


def cycle(store: Store) -> None:
    """Apply the fix and revert it."""
    hotpatch.apply(store.pid, FIX)
    assert store.connection.ask("VERSION") == "VERSION kv/2"
    assert store.increment_word() == "ERR not a number"
    hotpatch.revert(store.pid)
    assert store.connection.ask("VERSION") == "VERSION kv/1"
    assert store.increment_word() == "VALUE 1"


def test_apply_and_revert_again_and_again(store: Store) -> None:
    for _ in range(footprint.WARM_UP):
        cycle(store)
    before = footprint.of_target(store.pid), footprint.of_patcher()
    for _ in range(footprint.CYCLES):
        cycle(store)
    assert footprint.of_target(store.pid) == before[0]
    assert footprint.of_patcher() == before[1]

    store.load.process.terminate()
    result = store.load.result()
    assert [result[name] for name in ("status", "failures", "dropped", "refused")] == [0] * 4, (
        result
    )
    assert set(result["versions"]) == {"1", "2"}


def test_every_worker_goes_on_and_none_is_interrupted(store: Store) -> None:
    cycle(store)
    then = [worker["wakeups"] for worker in store.workers()]
    assert len(then) == WORKERS
    for _ in attempts():
        if all(now["wakeups"] > a for now, a in zip(store.workers(), then, strict=True)):
            break
    assert {worker["interrupted"] for worker in store.workers()} == {0}


def test_entries_that_grow_and_shrink(start: Callable[..., Any]) -> None:
    """kv/2 to kv/3 and back: each entry is made anew, with all clients at it."""
    server = start("kv-v2", "--threads", str(WORKERS))
    port = server.ready()["port"]
    options = ("--connections", "8", "--rate", "2000", "--seconds", "3600")
    load = start("kvload", "--port", port, *options, kind=Load)
    load.ready()
    with Connection(int(port)) as connection:
        for number in range(1000):
            connection.ask(f"SET key{number} value {number}")
        for _ in range(3):
            assert connection.ask("TTL key7").startswith("ERR")
            result = hotpatch.apply(server.pid, GROW)
            assert result.rehearsal is not None
            assert connection.ask("VERSION") == "VERSION kv/3"
            assert connection.ask("TTL key7") == "VALUE -1"
            assert connection.ask("EXPIRE key8 1000") == "OK"
            assert connection.ask("TTL key8") == "VALUE 1000"
            assert connection.ask("EXPIRE key9 0") == "OK"
            assert connection.ask("GET key9") == "NONE"
            connection.ask("SET key9 value 9")
            for number in range(1000):
                assert connection.ask(f"GET key{number}") == f"VALUE value {number}"
            hotpatch.revert(server.pid)
            assert connection.ask("VERSION") == "VERSION kv/2"
            for number in range(1000):
                assert connection.ask(f"GET key{number}") == f"VALUE value {number}"
    load.process.terminate()
    counted = load.result()
    assert [counted[name] for name in ("status", "failures", "dropped", "refused")] == [0] * 4
    assert set(counted["versions"]) == {"2", "3"}

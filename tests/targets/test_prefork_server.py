# SPDX-License-Identifier: GPL-2.0-or-later
"""The pre-fork server: who answers, who is replaced, and the sum that v1 gets wrong."""

from __future__ import annotations

import os
import select
import signal
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.targets.servers import PATIENCE_S, Connection

VERSIONS = (1, 2)


def fields(line: str) -> dict[str, str]:
    return dict(field.split("=", 1) for field in line.split(" "))


def wait_for_end(pidfd: int) -> None:
    """Waits until a process that is not our child is gone."""
    assert select.select([pidfd], [], [], PATIENCE_S)[0]
    os.close(pidfd)


@pytest.fixture(params=VERSIONS, ids=lambda version: f"prefork{version}")
def version(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture
def master(start: Callable[..., Any], version: int) -> Any:
    return start(f"prefork-v{version}", "--port", "0", "--workers", "3")


def test_every_worker_answers(master: Any, version: int) -> None:
    ready = master.ready()
    workers = set(ready["workers"].split(","))
    assert len(workers) == 3
    # One connection each, held open: a worker has one at a time.
    connections = [Connection(int(ready["port"])) for _ in workers]
    answers = [fields(c.ask("hello")) for c in connections]
    assert {answer["pid"] for answer in answers} == workers
    assert {answer["version"] for answer in answers} == {str(version)}
    assert [fields(c.ask("again"))["served"] for c in connections] == ["2"] * 3
    for connection in connections:
        connection.__exit__()


@pytest.mark.parametrize("text", ["", "a", "hello", "x" * 4000])
def test_the_sum(master: Any, version: int, text: str) -> None:
    summed = text if version > 1 else text[:-1]
    with Connection(int(master.ready()["port"])) as c:
        answer = fields(c.ask(text))
    assert int(answer["bytes"]) == len(text)
    assert int(answer["sum"], 16) == zlib.adler32(summed.encode())


def test_lines_may_come_together_and_in_pieces(master: Any) -> None:
    with Connection(int(master.ready()["port"])) as c:
        c.send(b"one\ntwo\nthr")
        assert [fields(c.line())["bytes"] for _ in range(2)] == ["3", "3"]
        assert fields(c.ask("ee"))["bytes"] == "5"
        c.send(b"x" * 4096)  # a line that is too long
        assert c.closed()


def test_a_dead_worker_is_replaced(start: Callable[..., Any], version: int) -> None:
    master = start(f"prefork-v{version}", "--workers", "1")
    ready = master.ready()
    os.kill(int(ready["workers"]), signal.SIGKILL)
    word, old, new = master.line().split(" ")
    assert (word, old) == ("RESTARTED", f"old={ready['workers']}")
    with Connection(int(ready["port"])) as c:
        assert f"pid={fields(c.ask('hello'))['pid']}" == new.replace("new", "pid")


@pytest.mark.parametrize("killed", [False, True], ids=["sigterm", "sigkill"])
def test_no_worker_outlives_the_master(master: Any, killed: bool) -> None:
    ready = master.ready()
    pidfds = [os.pidfd_open(int(pid)) for pid in ready["workers"].split(",")]
    if killed:
        master.kill()
    else:
        assert master.stop() == 0
    for pidfd in pidfds:
        wait_for_end(pidfd)

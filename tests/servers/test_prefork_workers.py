# SPDX-License-Identifier: GPL-2.0-or-later
"""A pre-fork server: each worker patched for itself, and those that are born patched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest

import hotpatch
from tests.servers import footprint
from tests.support.programs import ROOT
from tests.targets.servers import BUILD, Connection, Program

FIX = str(ROOT / "targets" / "build" / "patches" / "prefork-v1-v2.so")
WORKERS = 3
LINE = "hello"
OLD_SUM, NEW_SUM = (f"{zlib.adler32(text):08x}" for text in (b"hell", b"hello"))


class Prefork(NamedTuple):
    """A server of version 1."""

    master: Program
    port: int
    workers: list[int]


@pytest.fixture
def prefork(start: Callable[..., Any]) -> Prefork:
    master = start("prefork-v1", "--workers", str(WORKERS))
    ready = master.ready()
    return Prefork(master, int(ready["port"]), [int(pid) for pid in ready["workers"].split(",")])


def answer(connection: Connection) -> dict[str, str]:
    return dict(field.split("=", 1) for field in connection.ask(LINE).split(" "))


@contextmanager
def a_connection_to_each(server: Prefork, count: int = WORKERS) -> Iterator[dict[int, Connection]]:
    """Connections by the pid of the worker: one serves one at a time, so each gets its own."""
    with ExitStack() as stack:
        found = {}
        for _ in range(count):
            connection = stack.enter_context(Connection(server.port))
            found[int(answer(connection)["pid"])] = connection
        yield found


def test_each_worker_is_patched_for_itself(prefork: Prefork) -> None:
    before = {pid: footprint.of_target(pid).mappings for pid in prefork.workers}
    with a_connection_to_each(prefork) as connections:
        assert sorted(connections) == sorted(prefork.workers)
        for pid, connection in connections.items():
            assert (answer(connection)["version"], answer(connection)["sum"]) == ("1", OLD_SUM)
            served = int(answer(connection)["served"])
            hotpatch.apply(pid, FIX)
            now = answer(connection)
            assert (now["version"], now["sum"]) == ("2", NEW_SUM)
            assert int(now["served"]) == served + 1  # it counts on where the old one was
        for pid, connection in connections.items():
            hotpatch.revert(pid)
            assert answer(connection)["sum"] == OLD_SUM
            # Asleep in the middle of its work, it may have kept words of the patch on its stack
            # until this answer. Then it is the next patcher that gives the memory back.
            with pytest.raises(hotpatch.Refused, match="no patch applied"):
                hotpatch.revert(pid)
    assert {pid: footprint.of_target(pid).mappings for pid in prefork.workers} == before


def test_a_worker_forked_after_the_patch_has_it(prefork: Prefork) -> None:
    applied = hotpatch.apply(prefork.master.pid, FIX)
    os.kill(prefork.workers[0], signal.SIGKILL)
    word, _, new = prefork.master.line().split(" ")
    assert word == "RESTARTED"
    born = int(new.removeprefix("new="))
    assert [p.record.id for p in hotpatch.patches(born)] == [applied.patch.id]
    with a_connection_to_each(prefork) as connections:
        versions = {pid: answer(connection)["version"] for pid, connection in connections.items()}
        assert versions == {born: "2", **dict.fromkeys(prefork.workers[1:], "1")}
        hotpatch.revert(born)  # its own copy: the master keeps the patch
        assert answer(connections[born])["sum"] == OLD_SUM
    assert [p.record.id for p in hotpatch.patches(prefork.master.pid)] == [applied.patch.id]


def test_all_of_a_program_by_one_command(prefork: Prefork) -> None:
    program = os.path.join(BUILD, "prefork-v1")
    command = [sys.executable, "-m", "hotpatch", "apply", "--all-of", program, FIX, "-q"]
    subprocess.run(command, cwd=ROOT, check=True)
    with a_connection_to_each(prefork) as connections:
        assert {answer(connection)["version"] for connection in connections.values()} == {"2"}
    for pid in (prefork.master.pid, *prefork.workers):
        hotpatch.revert(pid)

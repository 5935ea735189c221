# SPDX-License-Identifier: GPL-2.0-or-later
"""The web server under constant load from several connections, patched and reverted.

The load generator checks every byte, and that each answer is wholly of the version it names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import hotpatch
from tests.servers import footprint
from tests.support.programs import ROOT, wait_until
from tests.targets.servers import Connection, Load, Program

PATCHES = ROOT / "targets" / "build" / "patches"
FIX = str(PATCHES / "web-v1-v2.so")
FEATURE = str(PATCHES / "web-v2-v3.so")
DATA = str(PATCHES / "web-v3-v4.so")
SECURITY = str(PATCHES / "web-traversal.so")

EPOLL_PWAIT = "281"  # arch/x86/entry/syscalls/syscall_64.tbl


class Web:
    """A web server of version 1 under load, and a connection to look at its answers."""

    def __init__(self, server: Program, load: Load, connection: Connection) -> None:
        self.pid = server.pid
        self._load = load
        self._connection = connection

    def last_three(self) -> bytes:
        """What it takes for the last three bytes of ten."""
        return self._connection.request("/ten.txt", Range="bytes=-3").body

    def version(self) -> str:
        return self._connection.request("/").headers["server"]

    def has_tags(self) -> bool:
        return "etag" in self._connection.request("/ten.txt").headers

    def secret(self) -> bytes:
        """A file outside of the root, as far as it gives it away."""
        return self._connection.request("/..%2fsecret").body

    def footprint(self) -> footprint.Footprint:
        """What it has open and mapped in a moment without requests: some of them open a file."""
        load = self._load.process
        load.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, load.pid, os.WSTOPPED | os.WNOWAIT)
        self.version()
        wait_until(self._waits, "the server waits for requests")
        seen = footprint.of_target(self.pid)
        load.send_signal(signal.SIGCONT)
        return seen

    def _waits(self) -> bool:
        with open(f"/proc/{self.pid}/syscall", encoding="ascii") as file:
            return file.read().split()[0] == EPOLL_PWAIT

    def expect_all_answered(self) -> dict[str, int]:
        """End the load; no request failed and no connection was lost. Return answers by version."""
        self._load.process.terminate()
        result = self._load.result()
        unwanted = [result[name] for name in ("status", "failures", "dropped", "refused")]
        assert unwanted == [0, 0, 0, 0], result
        versions: dict[str, int] = result["versions"]
        return versions


@pytest.fixture
def web(start: Callable[..., Any], root: str) -> Iterator[Web]:
    server = start("web-v1", "--root", root)
    port = server.ready()["port"]
    options = ("--connections", "8", "--rate", "1000", "--seconds", "3600")
    load = start("webload", "--port", port, *options, kind=Load)
    load.ready()
    with ExitStack() as stack:
        yield Web(server, load, stack.enter_context(Connection(int(port))))


def cycle(web: Web) -> None:
    """Apply the fix and revert it."""
    assert hotpatch.apply(web.pid, FIX).status == "applied"
    assert web.last_three() == b"789"
    assert hotpatch.revert(web.pid).status == "reverted"
    assert web.last_three() == b"6789"


def test_apply_and_revert_again_and_again(web: Web) -> None:
    for _ in range(footprint.WARM_UP):
        cycle(web)
    before = web.footprint(), footprint.of_patcher()
    anonymous = footprint.anonymous_of_patcher()
    for _ in range(footprint.CYCLES):
        cycle(web)
    assert web.footprint() == before[0]
    assert footprint.of_patcher() == before[1]
    assert footprint.anonymous_of_patcher() < anonymous + footprint.CYCLES // 2
    assert set(web.expect_all_answered()) == {"1", "2"}


def test_through_all_versions_and_back(web: Web) -> None:
    before = web.footprint()
    assert (web.version(), web.last_three(), web.has_tags()) == ("web/1", b"6789", False)
    fix = hotpatch.apply(web.pid, FIX)
    assert (web.version(), web.last_three(), web.has_tags()) == ("web/2", b"789", False)
    feature = hotpatch.apply(web.pid, FEATURE)
    assert (web.version(), web.last_three(), web.has_tags()) == ("web/3", b"789", True)
    assert web.secret() == b"secret\n"
    hotpatch.apply(web.pid, SECURITY)
    assert web.secret() == b"404 Not Found\n"
    hotpatch.revert(web.pid)
    assert web.secret() == b"secret\n"
    hotpatch.revert(web.pid, feature.patch.id)
    assert (web.version(), web.last_three(), web.has_tags()) == ("web/2", b"789", False)
    hotpatch.revert(web.pid, fix.patch.id)
    assert (web.version(), web.last_three(), web.has_tags()) == ("web/1", b"6789", False)
    assert web.footprint().mappings == before.mappings
    assert set(web.expect_all_answered()) == {"1", "2", "3"}


def test_data_of_other_layouts_to_and_fro(web: Web) -> None:
    """Connections and files in the midst of their use: grown, reordered, in another table."""
    hotpatch.apply(web.pid, FIX)
    hotpatch.apply(web.pid, FEATURE)
    rounds = max(3, footprint.CYCLES // 10)
    for number in range(rounds):
        result = hotpatch.apply(web.pid, DATA, timeout=60)
        assert result.rehearsal is not None
        assert result.warnings == ()
        assert "9 connections" in result.messages[0]
        assert (web.version(), web.last_three(), web.has_tags()) == ("web/4", b"789", True)
        assert web.secret() == b"404 Not Found\n"
        hotpatch.revert(web.pid, timeout=60)
        assert (web.version(), web.last_three(), web.has_tags()) == ("web/3", b"789", True)
        assert web.secret() == b"secret\n"
        if number == 0:  # the heap has what it needs, and all files are open
            before = web.footprint()
    assert web.footprint() == before
    hotpatch.revert(web.pid)
    hotpatch.revert(web.pid)
    assert set(web.expect_all_answered()) == {"1", "2", "3", "4"}


def test_each_cycle_by_commands(web: Web) -> None:
    """As an operator would, each time with a new patcher."""
    hotpatch_command = [sys.executable, "-m", "hotpatch"]
    for _ in range(3):
        subprocess.run([*hotpatch_command, "apply", str(web.pid), FIX, "-q"], cwd=ROOT, check=True)
        assert web.last_three() == b"789"
        subprocess.run([*hotpatch_command, "revert", str(web.pid), "-q"], cwd=ROOT, check=True)
        assert web.last_three() == b"6789"
    web.expect_all_answered()

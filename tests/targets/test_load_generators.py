# SPDX-License-Identifier: GPL-2.0-or-later
"""The load generators: they accept what is right, and notice all that can be wrong."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.targets.servers import TARGETS, Load

Start = Callable[..., Any]
SERVERS = {
    "web": ["web-v1", "web-v2", "web-v3", "web-v4"],
    "kv": ["kv-v1", "kv-v2", "kv-v3"],
}
ALL = [(kind, name) for kind, names in SERVERS.items() for name in names]


@pytest.fixture
def start_server(start: Start, root: str) -> Start:
    def start_one(name: str, port: int = 0) -> tuple[Any, int]:
        options = ["--root", root] if "web" in name else []
        server = start(name, "--port", str(port), *options)
        return server, int(server.ready()["port"])

    return start_one


@pytest.fixture
def load(start: Start) -> Start:
    def load_one(kind: str, port: int, *options: str) -> Any:
        quiet = {"stderr": subprocess.DEVNULL}
        return start(f"{kind}load", "--port", str(port), *options, kind=Load, **quiet)

    return load_one


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[name for _, name in ALL])
def test_a_right_server_passes(start_server: Start, load: Start, kind: str, name: str) -> None:
    _, port = start_server(name)
    version = name[-1]
    result = load(
        kind, port, "--requests", "2000", "--rate", "0", "--versions", version, "--slow-ms", "10000"
    ).result()
    assert result["status"] == 0
    assert result["requests"] >= 2000
    assert list(result["versions"]) == [version]
    assert {result[name] for name in ("failures", "dropped", "refused", "slow")} == {0}
    latency = result["latency_us"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p99"] <= latency["max"]


@pytest.mark.parametrize(("kind", "name"), [("web", "web-v1"), ("kv", "kv-v1")])
def test_a_version_that_is_not_allowed_fails(
    start_server: Start, load: Start, kind: str, name: str
) -> None:
    _, port = start_server(name)
    result = load(kind, port, "--requests", "200", "--rate", "0", "--versions", "2,3").result()
    assert result["status"] == 1
    assert result["failures"] > 0
    assert result["versions"] == {}


@pytest.mark.parametrize(
    ("kind", "source", "sources"),
    [
        ("web", "web/v1.c", "loop connection cache http answer"),
        ("web", "web/v2.c", "loop connection cache http answer"),
        ("kv", "kv/v1.c", "server table"),
    ],
)
def test_an_answer_of_two_versions_fails(
    start: Start, load: Start, root: str, tmp_path: Any, kind: str, source: str, sources: str
) -> None:
    """A server that says the next version, and does what its own did."""
    with open(os.path.join(TARGETS, source), encoding="utf-8") as file:
        text = file.read()
    version = int(source[-3])
    assert text.count(f"return {version};") == 1
    liar = tmp_path / "liar.c"
    liar.write_text(text.replace(f"return {version};", f"return {version + 1};"))
    shared = [os.path.join(TARGETS, kind, f"{name}.c") for name in sources.split()]
    command = ["cc", "-O1", "-pthread", f"-I{TARGETS}/{kind}", "-DWEB_VERSION=1", "-DKV_VERSION=1"]
    command += ["-o", str(tmp_path / "liar"), str(liar), *shared, f"{TARGETS}/common/target.c"]
    subprocess.run(command, check=True)

    options = ["--root", root] if kind == "web" else []
    port = int(start(str(tmp_path / "liar"), *options).ready()["port"])
    result = load(kind, port, "--requests", "200", "--rate", "0").result()
    assert result["status"] == 1
    assert result["failures"] > 0
    assert list(result["versions"]) == [str(version + 1)]


def test_a_wrong_byte_fails(start_server: Start, load: Start, root: str) -> None:
    path = os.path.join(root, "f-300000.bin")
    with open(path, "r+b") as file:
        file.seek(299_999)
        right = file.read(1)
        try:
            file.seek(299_999)
            file.write(b"!")
            file.flush()
            _, port = start_server("web-v2")
            result = load("web", port, "--requests", "100", "--rate", "0").result()
        finally:
            file.seek(299_999)
            file.write(right)
    assert result["status"] == 1
    assert 0 < result["failures"] < result["requests"]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_killed_server_is_noticed_and_a_new_one_found(
    start_server: Start, load: Start, kind: str
) -> None:
    server, port = start_server(f"{kind}-v2")
    client = load(kind, port, "--connections", "4", "--rate", "2000", "--progress")
    assert client.ready()["connections"] == "4"
    server.kill()
    while " dropped=4 " not in client.line():
        pass
    start_server(f"{kind}-v2", port)
    while " reconnected=4 " not in client.line():
        pass
    client.process.send_signal(signal.SIGTERM)
    result = client.result()
    assert result["status"] == 1
    assert (result["failures"], result["dropped"], result["reconnected"]) == (0, 4, 4)
    assert result["requests"] > 4


@pytest.mark.parametrize("kind", SERVERS)
def test_a_stalled_server_is_noticed(start_server: Start, load: Start, kind: str) -> None:
    server, port = start_server(f"{kind}-v2")
    client = load(kind, port, "--timeout-ms", "100", "--connections", "2", "--seconds", "60")
    client.ready()
    os.kill(server.pid, signal.SIGSTOP)
    failures = "failures=0"
    while failures == "failures=0":
        client.process.send_signal(signal.SIGUSR1)
        failures = client.line().split()[2]
    assert client.stop() == 1


def test_a_slow_answer_is_counted(start_server: Start, load: Start) -> None:
    _, port = start_server("web-v1")
    client = load("web", port, "--requests", "50", "--rate", "0", "--slow-ms", "0")
    result = client.result()
    assert result["slow"] == result["requests"]
    assert result["status"] == 0


def test_no_server_at_all(load: Start, start_server: Start) -> None:
    server, port = start_server("web-v1")
    server.stop()
    result = load("web", port, "--seconds", "1").result()
    assert (result["status"], result["requests"]) == (1, 0)
    assert result["refused"] > 0


@pytest.mark.parametrize("kind", SERVERS)
def test_the_rate_is_kept(start_server: Start, load: Start, kind: str) -> None:
    _, port = start_server(f"{kind}-v1")
    result = load(kind, port, "--seconds", "1", "--rate", "200").result()
    assert 150 <= result["requests"] <= 201


@pytest.mark.parametrize(
    "options", [[], ["--port", "x"], ["--port", "1", "--versions", "a"], ["--frob"]]
)
def test_wrong_usage(options: list[str]) -> None:
    command = [os.path.join(TARGETS, "build", "webload"), *options]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 2

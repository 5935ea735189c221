# SPDX-License-Identifier: GPL-2.0-or-later
"""The web server: what every version does, and what tells one from the next."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.targets.servers import Connection, attempts

Serve = Callable[..., int]
VERSIONS = (1, 2, 3, 4)


@pytest.fixture
def serve(start: Callable[..., Any], root: str) -> Serve:
    """Starts a version; its port."""

    def serve_one(version: int, directory: str = root, **popen: Any) -> int:
        server = start(f"web-v{version}", "--port", "0", "--root", directory, **popen)
        ready = server.ready()
        assert int(ready["pid"]) == server.pid
        return int(ready["port"])

    return serve_one


@pytest.fixture(params=VERSIONS, ids=lambda version: f"web{version}")
def port(request: pytest.FixtureRequest, serve: Serve) -> int:
    return serve(request.param)


def status_of(connection: Connection) -> dict[str, int]:
    lines = connection.request("/status").body.decode().splitlines()
    return {name: int(value) for name, value in (line.split(" ", 1) for line in lines[:13])}


# ---- Every version ----


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_is_in_every_answer(serve: Serve, version: int) -> None:
    with Connection(serve(version)) as c:
        for path in ("/", "/ten.txt", "/missing", "/status"):
            assert c.request(path).headers["server"] == f"web/{version}"
        assert status_of(c)["version"] == version


@pytest.mark.parametrize(
    ("path", "content", "mime"),
    [
        ("/", b"<p>hello\n", "text/html; charset=utf-8"),
        ("/sub/", b"<p>sub\n", "text/html; charset=utf-8"),
        ("/ten.txt?query=1", b"0123456789", "text/plain; charset=utf-8"),
        ("/empty.css", b"", "text/css; charset=utf-8"),
        ("/with%20space.txt", b"spaced", "text/plain; charset=utf-8"),
        ("//ten.txt", b"0123456789", "text/plain; charset=utf-8"),
        ("http://localhost/ten.txt", b"0123456789", "text/plain; charset=utf-8"),
    ],
)
def test_a_file_is_served(port: int, path: str, content: bytes, mime: str) -> None:
    with Connection(port) as c:
        answer = c.request(path)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["content-type"] == mime
        head = c.request(path, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(content))


@pytest.mark.parametrize(
    ("request_text", "status", "closes"),
    [
        ("GET /missing HTTP/1.1\r\nHost: x\r\n\r\n", 404, False),
        ("GET /sub HTTP/1.1\r\nHost: x\r\n\r\n", 404, False),
        ("GET /../secret HTTP/1.1\r\nHost: x\r\n\r\n", 404, False),
        ("GET /%2fetc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404, False),
        ("GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, False),
        ("GET /ten.txt%00.html HTTP/1.1\r\nHost: x\r\n\r\n", 400, False),
        ("DELETE /ten.txt HTTP/1.1\r\nHost: x\r\n\r\n", 405, False),
        ("GET /ten.txt HTTP/1.1\r\n\r\n", 400, True),
        ("GET ten.txt HTTP/1.1\r\nHost: x\r\n\r\n", 400, True),
        ("nonsense\r\n\r\n", 400, True),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400, True),
        ("GET /" + "x" * 9000, 400, True),
        ("GET /" + "x" * 2000 + " HTTP/1.1\r\nHost: x\r\n\r\n", 400, False),
        ("GET /ten.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200, True),
        ("GET /ten.txt HTTP/1.0\r\n\r\n", 200, True),
        ("GET /ten.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, False),
    ],
)
def test_status_and_end_of_connection(
    port: int, request_text: str, status: int, closes: bool
) -> None:
    with Connection(port) as c:
        c.send(request_text.encode())
        answer = c.answer()
        assert answer.status == status
        assert answer.headers["connection"] == ("close" if closes else "keep-alive")
        if closes:
            assert c.closed()
        else:
            assert c.request("/ten.txt").body == b"0123456789"


def test_405_names_the_methods(port: int) -> None:
    with Connection(port) as c:
        assert c.request("/", "PUT").headers["allow"] == "GET, HEAD"


def test_a_body_is_not_taken_for_the_next_request(port: int) -> None:
    smuggled = b"GET /ten.txt HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
    with Connection(port) as c:
        c.send(head + smuggled)
        assert c.answer().status == 405
        assert c.closed()


@pytest.mark.parametrize(
    ("value", "status", "content_range", "body"),
    [
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=0-0", 206, "bytes 0-0/10", b"0"),
        ("bytes=7-99", 206, "bytes 7-9/10", b"789"),
        ("bytes=-99", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=10-", 416, "bytes */10", None),
        ("bytes=4-2", 200, None, b"0123456789"),
        ("bytes=0-1,3-4", 200, None, b"0123456789"),
        ("bytes=x", 200, None, b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
def test_range(
    port: int, value: str, status: int, content_range: str | None, body: bytes | None
) -> None:
    with Connection(port) as c:
        answer = c.request("/ten.txt", Range=value)
        assert answer.status == status
        assert answer.headers.get("content-range") == content_range
        assert body is None or answer.body == body
        assert c.request("/ten.txt").status == 200


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    paths = ["/ten.txt", "/f-300000.bin", "/missing", "/", "/f-65536.bin"] * 20
    with Connection(port) as c:
        for path in paths:
            c.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sizes = [len(c.answer().body) for _ in paths]
    assert sizes == [10, 300000, len("404 Not Found\n"), 9, 65536] * 20


def test_a_request_may_come_byte_by_byte(port: int) -> None:
    with Connection(port) as c:
        c.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"GET /ten.txt HTTP/1.1\r\nHost: x\r\n\r\n":
            c.send(bytes([byte]))
        assert c.answer().body == b"0123456789"


def test_a_reader_that_is_slow_holds_up_nobody(port: int) -> None:
    with Connection(port) as slow, Connection(port) as quick:
        for _ in range(100):  # 30 MB: more than any socket buffer takes
            slow.send(b"GET /f-300000.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.socket.recv(1, socket.MSG_PEEK) == b"H"
        assert quick.request("/ten.txt").body == b"0123456789"
        assert status_of(quick)["bytes"] < 30_000_000
        bodies = {slow.answer().body for _ in range(100)}
    assert [len(body) for body in bodies] == [300000]


def test_a_changed_file_is_served_anew(serve: Serve, tmp_path: Any) -> None:
    port = serve(1, str(tmp_path))
    with Connection(port) as c:
        (tmp_path / "page").write_bytes(b"old")
        assert c.request("/page").body == b"old"
        (tmp_path / "new").write_bytes(b"new!")
        (tmp_path / "new").replace(tmp_path / "page")
        for _ in attempts():
            if c.request("/page").body == b"new!":
                break
        (tmp_path / "page").unlink()
        for _ in attempts():
            if c.request("/page").status == 404:
                break


@pytest.mark.parametrize("version", [1, 4])
def test_more_files_than_the_cache_holds(serve: Serve, tmp_path: Any, version: int) -> None:
    for i in range(300):
        (tmp_path / f"{i}").write_bytes(b"%d" % i)
    with Connection(serve(version, str(tmp_path))) as c:
        for i in [*range(300), *range(300)]:
            assert c.request(f"/{i}").body == b"%d" % i
        assert status_of(c)["cached"] == 256


def test_connections_beyond_the_limit_are_turned_away(serve: Serve) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))

    port = serve(1, preexec_fn=limit)
    connections = [Connection(port) for _ in range(20)]
    assert connections[19].closed()
    assert connections[0].request("/status").status == 200
    for connection in connections:
        connection.__exit__()
    with Connection(port) as c:
        for _ in attempts():
            if status_of(c)["connections"] == 1:
                break


def test_statistics(serve: Serve) -> None:
    port = serve(3)
    with Connection(port) as c:
        tag = c.request("/ten.txt").headers["etag"]
        c.request("/ten.txt", If_None_Match=tag)
        c.request("/missing")
        status = status_of(c)
    assert {name: status[name] for name in ("requests", "2xx", "3xx", "4xx")} == {
        "requests": 3,
        "2xx": 1,
        "3xx": 1,
        "4xx": 1,
    }
    assert (status["connections"], status["cached"], status["cache_hits"]) == (1, 1, 1)
    assert status["interrupted"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_sigterm_ends_it_cleanly(start: Callable[..., Any], root: str, version: int) -> None:
    server = start(f"web-v{version}", "--root", root)
    with Connection(int(server.ready()["port"])) as c:
        c.request("/")
        assert server.stop() == 0
        assert c.closed()


# ---- From version to version ----


@pytest.mark.parametrize(("version", "body"), [(1, b"6789"), (2, b"789"), (3, b"789"), (4, b"789")])
def test_the_last_three_bytes(serve: Serve, version: int, body: bytes) -> None:
    with Connection(serve(version)) as c:
        assert c.request("/ten.txt", Range="bytes=-3").body == body


@pytest.mark.parametrize(("version", "status"), [(1, 206), (2, 416), (3, 416), (4, 416)])
def test_the_last_zero_bytes(serve: Serve, version: int, status: int) -> None:
    with Connection(serve(version)) as c:
        assert c.request("/ten.txt", Range="bytes=-0").status == status


@pytest.mark.parametrize(("version", "tags"), [(1, False), (2, False), (3, True), (4, True)])
def test_entity_tags(serve: Serve, version: int, tags: bool) -> None:
    with Connection(serve(version)) as c:
        answer = c.request("/ten.txt")
        assert ("etag" in answer.headers) == tags
        tag = answer.headers.get("etag", '"none"')
        for value in (tag, f'"other", W/{tag}', "*"):
            again = c.request("/ten.txt", If_None_Match=value)
            assert (again.status, again.body) == ((304, b"") if tags else (200, b"0123456789"))
        assert c.request("/ten.txt", If_None_Match='"other"').status == 200


@pytest.mark.parametrize(
    ("version", "secret"), [(1, b"secret\n"), (2, b"secret\n"), (3, b"secret\n"), (4, None)]
)
@pytest.mark.parametrize("path", ["/..%2fsecret", "/%2e%2e/secret", "/sub/..%2f../secret"])
def test_climbing_out_of_the_root(
    serve: Serve, version: int, secret: bytes | None, path: str
) -> None:
    with Connection(serve(version)) as c:
        answer = c.request(path)
    assert (answer.status, answer.body) == ((200, secret) if secret else (404, b"404 Not Found\n"))


def test_web4_lists_its_connections(serve: Serve) -> None:
    with Connection(serve(4)) as c:
        c.request("/ten.txt")
        last = c.request("/status").body.decode().splitlines()[-1].split()
    assert (last[0], last[4:6]) == ("connection", ["requests", "2"])

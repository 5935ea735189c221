# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that are busy while their stacks are looked at: Debian's servers under load, and ours.

    with subject("nginx", compiled, tmp_path) as pids:

A server has its configuration, its socket and its files in the directory of the test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.quiescence.conftest import Compile
from tests.support.programs import ANSWER_TIMEOUT, executable, running, started, wait_until

NGINX = "/usr/sbin/nginx"
MEMCACHED = "/usr/bin/memcached"
REDIS = "/usr/bin/redis-server"
PYTHON = "/usr/bin/python3"
FLOOD = Path(__file__).parent / "flood.py"

BUSY_PYTHON = """
import hashlib, json, os, re, sqlite3, sys, threading, zlib
def work(n):
    table = sqlite3.connect(":memory:")
    table.create_function("twice", 1, lambda value: value * 2)
    while True:
        text = json.dumps({str(i): sorted(str(i * n), key=lambda c: ord(c)) for i in range(50)})
        re.sub("[0-9]+", lambda m: str(int(m[0]) + 1), text)
        hashlib.sha256(zlib.compress(text.encode() * 5)).digest()
        table.execute("select sum(twice(value)) from json_each(?)", ("[1, 2, 3]",)).fetchall()
for n in (3, 7):
    threading.Thread(target=work, args=(n,), daemon=True).start()
print("READY pid=%d" % os.getpid(), flush=True)
sys.stdin.read()
"""

# Files are read by threads of a pool; one location is a client of the server itself. A user is
# needed, and looked at, only where root runs this.
NGINX_CONFIGURATION = """
daemon off;
user root;
worker_processes 2;
pid {directory}/pid;
thread_pool default threads=2;
events {{ worker_connections 128; }}
http {{
    access_log /dev/null combined;
    log_not_found off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    types {{ text/plain txt; text/html html; }}
    keepalive_requests 1000000000;
    keepalive_timeout 1000;
    aio threads;
    gzip on;
    gzip_types text/plain;
    gzip_comp_level 6;
    server {{
        listen unix:{socket};
        root {directory};
        rewrite ^/(.)/(\\w+)$ /$2.txt?kind=$1 last;
        location = /page.html {{ ssi on; sub_filter word WORD; sub_filter_once off; }}
        location /again/ {{ proxy_pass http://unix:{socket}:/; }}
    }}
}}
"""
PAGE = '<p>words and <!--# if expr="$args = /a.*z/" -->more<!--# else -->none<!--# endif -->\n'
NGINX_REQUESTS = "".join(
    f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
    for path, header in (
        ("/text.txt", ""),
        ("/text.txt", "Accept-Encoding: gzip\r\n"),
        ("/x/text", "Range: bytes=100-2000\r\n"),
        ("/page.html?abcz", ""),
        ("/missing", ""),
        ("/again/text.txt", ""),
    )
)
MEMCACHED_REQUESTS = (
    "".join(f"set key{i} 0 0 {100 * i}\r\n{'x' * 100 * i}\r\n" for i in range(10))
    + "set number 0 0 1\r\n1\r\n"
    + "".join(f"get key{i} key{(i + 1) % 10} missing\r\nincr number {i}\r\n" for i in range(10))
    + f"get {' '.join(f'missing{i}' for i in range(100))}\r\n" * 5
    + "append key1 0 0 1\r\ny\r\ngets key1\r\ntouch key2 100\r\ndelete key3\r\n"
)
REDIS_REQUESTS = "".join(
    f"{command}\r\n"
    for number in range(20)
    for command in (
        f"SET key{number} {'x' * (10 * number + 1)}",
        f"GET key{number}",
        f"APPEND key{number} y",
        "INCR count",
        f"LPUSH list {number * 7919 % 1000}",
        "LTRIM list 0 100",
        "SORT list LIMIT 0 5",
        f"ZADD sorted {number} member{number * 7 % 20}",
        "ZRANGEBYSCORE sorted 5 10",
        f"HSET hash field{number} {number}",
        "HGETALL hash",
        f"PFADD few {number}",
        "PFCOUNT few",
        "KEYS k*",
        """EVAL "local sum = 0; for i = 1, 99 do sum = sum + #tostring(i) end; return sum" 0""",
        f"""EVAL "return redis.call('GET', KEYS[1])" 1 key{number}""",
    )
)


@contextmanager
def subject(name: str, compiled: Compile, directory: Path) -> Iterator[list[int]]:
    """Start a program by the name of its test; the pids of those of its processes that work."""
    commands: dict[str, Callable[[], list[str]]] = {
        "python3": lambda: [_installed(PYTHON), "-c", BUSY_PYTHON],
        "python": lambda: [sys.executable, "-c", BUSY_PYTHON],
        "c++": lambda: [compiled("throws.cpp", "-O2", "-g", compiler="g++")],
        "shapes": lambda: [compiled("shapes.c", "-O2")],
        "vdso": lambda: [compiled("vdso.c", "-O2")],
    }
    servers = {"nginx": nginx, "memcached": memcached, "redis": redis}
    if name in servers:
        with servers[name](directory) as pids:
            yield pids
    elif name in commands:
        with started(commands[name]()) as program:
            yield [program.pid]
    else:
        executable("simple")  # build before anything runs
        with running(name) as program:
            yield [program.pid]


def _installed(path: str) -> str:
    if not shutil.which(path):
        pytest.skip(f"no {path}")
    return path


@contextmanager
def nginx(directory: Path) -> Iterator[list[int]]:
    """The two worker processes of a stock nginx, each with a thread pool."""
    socket, configuration = directory / "socket", directory / "nginx.conf"
    configuration.write_text(NGINX_CONFIGURATION.format(directory=directory, socket=socket))
    (directory / "text.txt").write_text("".join(f"line {n} of {n * n}\n" for n in range(2000)))
    (directory / "page.html").write_text(PAGE * 100)
    command = [_installed(NGINX), "-c", str(configuration), "-e", str(directory / "errors")]
    # A master ends its workers; only one that had to be killed leaves them behind.
    with contextlib.ExitStack() as stack, _served(command, socket) as master:
        workers: list[int] = []

        def forked() -> bool:
            children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
            workers[:] = map(int, children)
            return len(workers) == 2

        wait_until(forked, "nginx has its workers")
        for worker in workers:
            stack.callback(_kill, os.pidfd_open(worker))
        with _flooded(directory, socket, 8, NGINX_REQUESTS):
            yield workers


@contextmanager
def memcached(directory: Path) -> Iterator[list[int]]:
    """A stock memcached."""
    socket = directory / "socket"
    command = [_installed(MEMCACHED), "-s", str(socket), "-u", "root", "-t", "4"]
    with _served(command, socket) as pid, _flooded(directory, socket, 12, MEMCACHED_REQUESTS):
        yield [pid]


@contextmanager
def redis(directory: Path) -> Iterator[list[int]]:
    """A stock redis-server."""
    socket = directory / "socket"
    command = [_installed(REDIS), "--port", "0", "--unixsocket", str(socket)]
    command += ["--dir", str(directory), "--save", ""]
    command += ["--io-threads", "2", "--io-threads-do-reads", "yes"]
    with _served(command, socket) as pid, _flooded(directory, socket, 8, REDIS_REQUESTS):
        yield [pid]


@contextmanager
def _served(command: list[str], socket: Path) -> Iterator[int]:
    """Run a server that listens on a socket; its pid."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(socket.exists, f"{command[0]} listens")
        yield server.pid
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.terminate()
            server.wait(ANSWER_TIMEOUT)
        server.kill()
        server.wait()


@contextmanager
def _flooded(directory: Path, socket: Path, connections: int, text: str) -> Iterator[None]:
    requests = directory / "requests"
    requests.write_text(text)
    command = [sys.executable, str(FLOOD), str(socket), str(connections), str(requests)]
    with started(command) as load:
        yield
        assert load.process.poll() is None, "the load has ended"


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)

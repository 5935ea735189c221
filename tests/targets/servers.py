# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the sample servers and load generators of ``targets/``, and talking to them.

Nothing sleeps: a program says `READY` when it can be used, and every wait is for an event (a line,
an answer, an exit) with a time limit that only a failure reaches.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

TARGETS = os.path.join(os.path.dirname(__file__), "..", "..", "targets")
BUILD = os.path.join(TARGETS, "build")
PATIENCE_S = 20.0


class Program:
    """A program of ``targets/build`` that runs, from its READY line until `end`."""

    def __init__(self, name: str, *arguments: str, **popen: Any) -> None:
        command = [os.path.join(BUILD, name), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen
        )
        self.pid = self.process.pid
        self._received = b""

    def line(self) -> str:
        """The next line on its standard output, without the line end; "" at the end of it."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while b"\n" not in self._received:
            assert select.select([fd], [], [], PATIENCE_S)[0], "no line in time"
            data = os.read(fd, 65536)
            if not data:
                break
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def ready(self) -> dict[str, str]:
        """Waits for the READY line; its fields."""
        word, *fields = self.line().split()
        assert word == "READY"
        return dict(field.split("=", 1) for field in fields)

    def ask(self, question: str) -> str:
        """Writes a line to its standard input, and reads one."""
        assert self.process.stdin is not None
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()
        return self.line()

    def stop(self) -> int:
        """Sends SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """Sends SIGKILL and reaps."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """Sees to it that it is gone, whatever became of the test."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Load(Program):
    """A load generator."""

    def result(self) -> dict[str, Any]:
        """Waits for its end; the JSON of its last line, with the exit status as `status`."""
        last = ""
        while line := self.line():
            last = line
        status = self.process.wait(PATIENCE_S)
        return {**json.loads(last), "status": status}


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class Connection:
    """A connection to a server on this machine, with answers read as lines or as HTTP."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> str:
        """The next line, without its end; "" where the peer has closed."""
        return self.file.readline().decode().rstrip("\r\n")

    def ask(self, question: str) -> str:
        """Sends a line and reads one."""
        self.send(question.encode() + b"\n")
        return self.line()

    def closed(self) -> bool:
        """Waits for data or the end; whether it was the end."""
        return self.file.read(1) == b""

    def answer(self, method: str = "GET") -> Answer:
        """Reads one HTTP answer to a request of this method."""
        version, status, _ = self.line().split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {}
        while line := self.line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        bodiless = method == "HEAD" or status == "304"
        size = 0 if bodiless else int(headers["content-length"])
        return Answer(int(status), headers, self.file.read(size))

    def request(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Sends an HTTP request and reads the answer; `If_None_Match` stands for a header."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode())
        return self.answer(method)


def attempts() -> Iterator[int]:
    """Counts the attempts at something that becomes true soon; fails when it does not."""
    deadline = time.monotonic() + PATIENCE_S
    attempt = 0
    while time.monotonic() < deadline:
        yield attempt
        attempt += 1
    raise AssertionError("it did not become true in time")

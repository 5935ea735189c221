# SPDX-License-Identifier: GPL-2.0-or-later
"""
The programs of tests/programs, as context managers.

    with running("threads", "40") as program:
        before = program.ask()
        ...
        program.expect_progress()

A program says READY when it is; each line sent to it is answered with one line of JSON. On leaving
the `with` block it is killed, whatever state it is in, and reaped: a test that failed leaves
nothing.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.proc import status_field

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ROOT / "tests" / "programs"
TOOLS = ROOT / "tests" / "tools"
BENCH = ROOT / "bench"

ANSWER_TIMEOUT = 20.0  # seconds, for a loaded machine


class ProgramError(AssertionError):
    """A test program ended, did not answer, or cannot be reaped."""


@functools.cache
def build(directory: Path) -> Path:
    """Run make there, once a session and one session at a time; returns its build directory."""
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-s", "-C", str(directory)], check=True)
    finally:
        os.close(lock)
    return directory / "build"


def executable(name: str) -> str:
    """The path of a program of tests/programs."""
    return str(build(PROGRAMS) / name)


def patch(name: str) -> str:
    """The path of a patch of tests/programs/patches: patch("answer_2")."""
    return str(build(PROGRAMS) / "patches" / f"{name}.so")


def tool(name: str) -> str:
    """The path of one of tests/tools: "killat", "meddle"."""
    return str(build(TOOLS) / name)


def floor() -> str:
    """The path of the C program that a pause is compared with."""
    return str(build(BENCH) / "floor")


def wait_until(condition: Callable[[], bool], what: str, timeout: float = ANSWER_TIMEOUT) -> None:
    """Poll for what the kernel has no event for; raises ProgramError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ProgramError(f"not within {timeout} s: {what}")
        select.select([], [], [], 0.005)


class Program:
    """A running test program: its pid, and a conversation with it."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int) -> None:
        self.process = process
        self.pid = pid

    def ask(self, line: str = "ask", timeout: float = ANSWER_TIMEOUT) -> dict[str, Any]:
        """Send a line, return the object it answers with."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        reply: dict[str, Any] = json.loads(read_line(self.process, timeout))
        assert "error" not in reply, f"{line}: {reply['error']}"
        return reply

    def quit(self) -> int:
        """Let it end by itself; returns its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"quit\n")
        self.process.stdin.close()
        return self.process.wait(ANSWER_TIMEOUT)

    def expect_progress(self, timeout: float = ANSWER_TIMEOUT) -> dict[str, Any]:
        """Ask until every thread has worked on since now; returns the last reply."""
        before = self.ask()["progress"]
        deadline = time.monotonic() + timeout
        while True:
            reply = self.ask()
            stuck = [i for i, count in enumerate(reply["progress"]) if count <= before[i]]
            if not stuck:
                return reply
            if time.monotonic() > deadline:
                raise ProgramError(f"threads {stuck} make no progress: {reply}")
            select.select([], [], [], 0.01)

    def kill(self) -> None:
        """SIGKILL and reap. Raises ProgramError if a tracer keeps it from being reaped."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        try:
            self.process.wait(ANSWER_TIMEOUT)
        except subprocess.TimeoutExpired:
            tracers = sorted(set(status_field(self.process.pid, "TracerPid")))
            raise ProgramError(f"{self.process.pid} is not reaped by {tracers}") from None
        finally:
            self.close_pipes()

    def close_pipes(self) -> None:
        """Close both, with what it did not live to read."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


def read_line(process: subprocess.Popen[bytes], timeout: float = ANSWER_TIMEOUT) -> str:
    """A line of its standard output, or ProgramError."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise ProgramError(f"pid {process.pid} says nothing within {timeout} s")
        piece = os.read(process.stdout.fileno(), 1 << 20)
        if not piece:
            raise ProgramError(f"pid {process.pid} ended with {process.wait(timeout)}")
        line += piece
    return line.decode()


@contextmanager
def running(name: str, *arguments: str) -> Iterator[Program]:
    """Start a program of tests/programs and wait until it is ready."""
    with started([executable(name), *arguments]) as program:
        yield program


@contextmanager
def started(command: list[str]) -> Iterator[Program]:
    """The same for any command that speaks the protocol; the pid is the one it says."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    program = Program(process, process.pid)
    try:
        ready = read_line(process)
        program.pid = int(ready.partition("READY pid=")[2].split()[0])
        yield program
    finally:
        program.kill()

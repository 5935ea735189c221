# SPDX-License-Identifier: GPL-2.0-or-later
"""A thousand stacks of busy programs, at moments that nobody chose, against gdb's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hotpatch.process.image import Process
from hotpatch.quiescence.unwind import Stack, Unwinder
from tests.quiescence.conftest import Compile
from tests.quiescence.gdb_frames import Gdb
from tests.quiescence.test_unwind import assert_as_gdb, registers_of
from tests.support.programs import executable, running, started, wait_until

SAMPLES = 1000
BUSY_PYTHON = """
import json, os, re, sys, threading
def work(n):
    while True:
        text = json.dumps({str(i): sorted(str(i * n), key=lambda c: ord(c)) for i in range(50)})
        re.sub("[0-9]+", lambda m: str(int(m[0]) + 1), text)
for n in (3, 7):
    threading.Thread(target=work, args=(n,), daemon=True).start()
print("READY pid=%d" % os.getpid(), flush=True)
sys.stdin.read()
"""


@contextmanager
def redis(directory: Path) -> Iterator[int]:
    """A stock redis-server, under load."""
    socket = directory / "socket"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(directory),
               "--save", "", "--io-threads", "2", "--io-threads-do-reads", "yes"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    load = None
    try:
        wait_until(socket.exists, "redis-server listens")
        load = subprocess.Popen(
            ["redis-benchmark", "-s", str(socket), "-q", "-l", "-c", "20"],
            stdout=subprocess.DEVNULL,
        )
        yield server.pid
    finally:
        for child in filter(None, (load, server)):
            child.kill()
            child.wait()


@contextmanager
def subject(name: str, compiled: Compile, directory: Path) -> Iterator[int]:
    """Start a program by the name of its test; its pid."""
    if name == "redis":
        if not shutil.which("redis-server"):
            pytest.skip("no redis-server")
        with redis(directory) as pid:
            yield pid
        return
    commands = {
        "python": lambda: [sys.executable, "-c", BUSY_PYTHON],
        "c++": lambda: [compiled("throws.cpp", "-O2", compiler="g++")],
        "shapes": lambda: [compiled("shapes.c", "-O2")],
        "vdso": lambda: [compiled("vdso.c", "-O2")],
    }
    if name in commands:
        with started(commands[name]()) as program:
            yield program.pid
    else:
        with running(name) as program:
            yield program.pid


def may_be_lost(process: Process, stack: Stack) -> bool:
    """Say whether a stack ends early where that is right.

    _init and the entries of IFUNCs have no call frame information. And when an exception is about
    to land, libgcc has written the new return address over that of its own frame already.
    """
    modules = [process.module_at(frame.pc) for frame in stack.frames[:3]]
    landing = any(module and module.name.startswith("libgcc_s.") for module in modules)
    silent = "no call frame information" in stack.reason and len(stack.frames) == 1
    return not stack.complete and (landing or silent)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "name", ["redis", "python", "c++", "shapes", "vdso", "timer", "threads", "mallocs"]
)
def test_a_thousand_samples(name: str, compiled: Compile, tmp_path: Path) -> None:
    executable("simple")  # build before anything runs
    stacks = unknown = 0
    with subject(name, compiled, tmp_path) as pid, Process(pid) as process, Gdb() as gdb:
        unwinder = Unwinder(process)
        while stacks < SAMPLES:
            for thread in gdb.attach(pid):
                stack = unwinder.unwind(registers_of(thread), process.read)
                stacks += 1
                if may_be_lost(process, stack):
                    unknown += 1
                else:
                    assert_as_gdb(stack, thread)
            gdb.detach()
    assert unknown < SAMPLES / 100

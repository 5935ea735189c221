# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds ``targets/`` once, and ends every program that a test has started, by its pid."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.targets.servers import TARGETS, Program


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    """The servers, load generators and patches."""
    subprocess.run(["make", "-s", "-C", TARGETS, "all"], check=True)


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Starts a program: ``start("kv-v1", "--threads", "2")``."""
    running: list[Program] = []

    def start_one(
        name: str, *arguments: str, kind: type[Program] = Program, **popen: Any
    ) -> Program:
        program = kind(name, *arguments, **popen)
        running.append(program)
        return program

    yield start_one
    for program in running:
        program.end()


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, built: None) -> str:
    """A directory to serve: the load generator's files, a page, and a secret beside it."""
    directory = tmp_path_factory.mktemp("site") / "root"
    webload = os.path.join(TARGETS, "build", "webload")
    subprocess.run([webload, "--make", str(directory)], check=True)
    (directory / "sub").mkdir()
    contents = {
        "index.html": b"<p>hello\n",
        "sub/index.html": b"<p>sub\n",
        "ten.txt": b"0123456789",
        "empty.css": b"",
        "with space.txt": b"spaced",
        "../secret": b"secret\n",
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return str(directory)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: programs compiled with any options, and a gdb."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.quiescence.gdb_frames import Gdb
from tests.support.compiled import INCLUDE, run_compiler

PROGRAMS = Path(__file__).parent / "programs"

Compile = Callable[..., str]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Return the path of sources of `programs`, compiled: compiled("shapes.c", "-O2")."""
    directory = tmp_path_factory.mktemp("programs")

    @functools.cache
    def compile_sources(names: str, *flags: str, compiler: str = "gcc") -> str:
        sources = [PROGRAMS / name for name in names.split()]
        output = directory / f"{sources[0].stem}{len(list(directory.iterdir()))}"
        run_compiler(compiler, "-pthread", "-I", INCLUDE, *sources, "-o", output, *flags)
        return str(output)

    return compile_sources


@pytest.fixture
def gdb() -> Iterator[Gdb]:
    with Gdb() as session:
        yield session

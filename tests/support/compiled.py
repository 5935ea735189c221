# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches from C text, compiled by any compiler with any options."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import ROOT

INCLUDE = ROOT / "hotpatch" / "include"

CompileShared = Callable[..., Path]


class CompileError(Exception):
    """The compiler did not take a text; its messages."""


class SharedObjects:
    """Compiles C text to shared objects in one directory."""

    def __init__(self, directory: Path) -> None:
        """Use a directory of the test's own."""
        self._directory = directory
        self._count = 0

    def __call__(
        self,
        text: str,
        *flags: str,
        compiler: str = "gcc",
        language: str = "c",
        shared: tuple[str, ...] = ("-shared", "-fPIC"),
    ) -> Path:
        """Return the path of the result; raises CompileError, and skips without the compiler."""
        if not shutil.which(compiler):
            pytest.skip(f"no {compiler}")
        self._count += 1
        source = self._directory / f"patch{self._count}.{language}"
        source.write_text(text)
        output = source.with_suffix(".so")
        run_compiler(compiler, "-I", INCLUDE, *shared, source, "-o", output, *flags)
        return output


def run_compiler(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a compiler; raises CompileError with its messages."""
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if run.returncode:
        raise CompileError(run.stderr)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets and patches for the stories of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.compiled import CompileShared, SharedObjects
from tests.support.programs import Program, running


@pytest.fixture(scope="session")
def compile_shared(tmp_path_factory: pytest.TempPathFactory) -> CompileShared:
    """Compile C text to a shared object, and return its path."""
    return SharedObjects(tmp_path_factory.mktemp("patches"))


@pytest.fixture
def simple() -> Iterator[Program]:
    """A program whose answer is 1."""
    with running("simple") as program:
        yield program

# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiling patches from C text."""

from __future__ import annotations

import pytest

from tests.support.compiled import CompileShared, SharedObjects


@pytest.fixture(scope="session")
def compile_shared(tmp_path_factory: pytest.TempPathFactory) -> CompileShared:
    """Compile C text to a shared object, and return its path."""
    return SharedObjects(tmp_path_factory.mktemp("patches"))

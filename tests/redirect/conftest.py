# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: executable memory near, and more than 2 GB away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redirect.executable import Arena

NEAR, FAR = 0x2_0000_0000, 0x12_0000_0000


@pytest.fixture
def near() -> Iterator[Arena]:
    arena = Arena(NEAR)
    yield arena
    arena.close()


@pytest.fixture
def far() -> Iterator[Arena]:
    arena = Arena(FAR)
    yield arena
    arena.close()

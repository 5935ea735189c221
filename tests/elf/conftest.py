# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of ELF files share: a directory for the files they build, and those files."""

from __future__ import annotations

from collections.abc import Iterator

import elf_samples
import pytest

from hotpatch.elf.file import ElfFile


@pytest.fixture(scope="session")
def sample_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where samples are built, once a session."""
    return str(tmp_path_factory.mktemp("elf"))


@pytest.fixture(scope="session", params=elf_samples.EVERY)
def path(request: pytest.FixtureRequest, sample_directory: str) -> str:
    """Each of the sample files."""
    return elf_samples.sample(sample_directory, request.param)


@pytest.fixture(scope="session", params=[n for n in elf_samples.EVERY if n != "object"])
def linked_path(request: pytest.FixtureRequest, sample_directory: str) -> str:
    """Each of the sample files that can be loaded."""
    return elf_samples.sample(sample_directory, request.param)


@pytest.fixture
def elf(path: str) -> Iterator[ElfFile]:
    """Each of the sample files, open."""
    file = ElfFile.open(path)
    yield file
    file.close()

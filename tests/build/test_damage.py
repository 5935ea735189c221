# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged object files and patches: an error that says so, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotpatch.build.binary import Binary
from hotpatch.build.difference import difference
from hotpatch.build.match import Match
from hotpatch.build.objects import Object
from hotpatch.build.typing import changed_types
from hotpatch.build.unwinding import Unwinding
from hotpatch.build.view import DebugView
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.errors import Refused
from hotpatch.patch.file import PatchFile
from tests.build.project import Project
from tests.build.test_diffs import CASES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A program, its objects, and a patch that was built."""
    project = Project(tmp_path_factory.mktemp("damage"), CASES["jump table"].files)
    project.build(CASES["jump table"].changes)
    flags = ["-ffunction-sections", "-fdata-sections"]
    command = ["gcc", "-O2", "-g", *flags, "-c", "a.c", "-o", "sections.o"]
    subprocess.run(command, cwd=project.source, check=True)
    return project


def broken(path: Path, data: st.DataObject) -> bytes:
    """The content of a file with some bytes changed, or cut off."""
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        return bytes(content[: data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    return bytes(content)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["a.c.o", "sections.o"])
def test_objects(name: str, made: Project, data: st.DataObject) -> None:
    path = next(p / name for p in (made.objects, made.source) if (p / name).exists())
    whole = Object(str(path))
    try:
        damaged = Object(str(path), ElfFile.from_bytes(broken(path, data)))
        for atom in damaged.atoms:
            damaged.references(atom)
        Unwinding(damaged)
        views = DebugView(whole), DebugView(damaged)
        difference(whole, damaged, (views[0].line, views[1].line))
        difference(damaged, whole)
        changed_types(*views)
        Match(damaged, Binary(str(made.program)))
    except ElfError:
        pass


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_patches(made: Project, data: st.DataObject) -> None:
    path = made.directory / "damaged.so"
    path.write_bytes(broken(made.directory / "fix.so", data))
    try:
        patch = PatchFile.open(str(path))
    except Refused:
        return
    assert all(place.offset >= 0 for place in patch.places)

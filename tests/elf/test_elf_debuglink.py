# SPDX-License-Identifier: GPL-2.0-or-later
"""Stripped programs and their separate debug files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import elf_builder
import elf_samples
import pytest
from elf_builder import Part

from hotpatch.elf import constants as c
from hotpatch.elf.debuglink import find_debug_file, read_debuglink
from hotpatch.elf.file import ElfError, ElfFile

STRIPPERS = {
    "binutils": (
        ["objcopy", "--only-keep-debug", "whole", "app.debug"],
        ["objcopy", "--strip-all", "--add-gnu-debuglink=app.debug", "whole", "app"],
    ),
    "elfutils": (["eu-strip", "-f", "app.debug", "-o", "app", "whole"],),
}


class Tree:
    """A root directory with /usr/bin/app in it, stripped, and its debug file elsewhere."""

    def __init__(self, root: str, whole: str, stripper: str) -> None:
        self.root, self.whole = root, whole
        self.bin = f"{root}/usr/bin"
        Path(self.bin).mkdir(parents=True)
        shutil.copy(whole, f"{root}/whole")
        for command in STRIPPERS[stripper]:
            subprocess.run(command, cwd=root, check=True)
        shutil.move(f"{root}/app", self.bin)
        self.elf = ElfFile.open(f"{self.bin}/app")

    def put(self, path: str) -> str:
        """Copy the debug file to `path` below the root."""
        target = Path(f"{self.root}{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(f"{self.root}/app.debug", target))

    def find(self) -> str | None:
        return find_debug_file("/usr/bin/app", self.elf, self.root)


@pytest.fixture(params=STRIPPERS)
def tree(request: pytest.FixtureRequest, tmp_path: Path, sample_directory: str) -> Iterator[Tree]:
    if shutil.which(STRIPPERS[request.param][0][0]) is None:
        pytest.skip(f"{request.param} is not installed")
    yield Tree(f"{tmp_path}/root", elf_samples.sample(sample_directory, "now"), request.param)


@pytest.mark.parametrize(
    "place", ["/usr/bin/app.debug", "/usr/bin/.debug/app.debug", "/usr/lib/debug/usr/bin/app.debug"]
)
def test_debug_file_is_found_by_its_link(tree: Tree, place: str) -> None:
    assert tree.find() is None
    assert tree.find() != tree.put(place) == tree.find()


def test_debug_file_is_found_by_build_id(tree: Tree) -> None:
    assert tree.elf.build_id
    digits = tree.elf.build_id.hex()
    path = tree.put(f"/usr/lib/debug/.build-id/{digits[:2]}/{digits[2:]}.debug")
    tree.put("/usr/bin/app.debug")
    assert tree.find() == path


def test_debug_file_of_another_build_is_passed_over(tree: Tree) -> None:
    assert tree.elf.build_id
    digits = tree.elf.build_id.hex()
    by_id = tree.put(f"/usr/lib/debug/.build-id/{digits[:2]}/{digits[2:]}.debug")
    shutil.copy("/bin/ls", by_id)
    beside = tree.put("/usr/bin/app.debug")
    with open(beside, "ab") as file:
        file.write(b"\0")
    assert tree.find() is None
    assert tree.put("/usr/bin/.debug/app.debug") == tree.find()


def test_candidates_that_are_no_files_are_passed_over(tree: Tree) -> None:
    os.mkfifo(f"{tree.bin}/app.debug")
    endless = Path(f"{tree.root}/usr/lib/debug/usr/bin/app.debug")
    endless.parent.mkdir(parents=True)
    endless.symlink_to("/dev/zero")
    Path(f"{tree.bin}/.debug/app.debug").mkdir(parents=True)
    assert tree.find() is None


def test_symbols_of_a_debug_file_are_those_before_stripping(tree: Tree) -> None:
    debug, whole = ElfFile.open(tree.put("/usr/bin/app.debug")), ElfFile.open(tree.whole)
    assert (debug.debug_only, whole.debug_only, tree.elf.debug_only) == (True, False, False)
    assert debug.build_id == whole.build_id == tree.elf.build_id
    (helper,) = whole.symbols.by_name("second")
    assert debug.symbols.by_name("second") == [helper]
    assert debug.symbols.at(helper.value) == helper
    assert debug.symbols.functions() == whole.symbols.functions()
    assert tree.elf.symbols.by_name("second") == []


def test_what_a_debug_file_does_not_store_is_not_read_from_it(tree: Tree) -> None:
    debug = ElfFile.open(tree.put("/usr/bin/app.debug"))
    assert (debug.dynamic, debug.needed, debug.relocations) == ({}, (), [])
    assert len(debug.dynamic_symbols) == 0
    text = debug.section(".text")
    assert text is not None
    assert debug.section_data(text) == b""


def test_program_without_link_or_build_id_has_no_debug_file() -> None:
    elf = ElfFile.from_bytes(elf_builder.build([]))
    assert read_debuglink(elf) is None
    assert find_debug_file("/usr/bin/app", elf) is None


@pytest.mark.parametrize(
    "content", [b"", b"app.debug", b"app.debug\0", b"\0\0\0\0\1\2\3\4", b"a/b\0\1\2\3\4"]
)
def test_damaged_link_is_said(content: bytes) -> None:
    part = Part(".gnu_debuglink", c.SHT_PROGBITS, content, 0)
    with pytest.raises(ElfError, match="gnu_debuglink holds no file name and CRC"):
        read_debuglink(ElfFile.from_bytes(elf_builder.build([part])))

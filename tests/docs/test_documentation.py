# SPDX-License-Identifier: GPL-2.0-or-later
"""README.md and docs/: their examples compile, and what they refer to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hotpatch
from hotpatch import errors
from hotpatch.patch.file import PatchFile
from tests.support.compiled import SharedObjects
from tests.support.programs import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```c\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, text in enumerate(BLOCK.findall(page.read_text()), 1)
    if "#include <hotpatch.h>" in text
]


def words_after(word: str, page: Path) -> set[str]:
    """What follows a command's name in the code of a page."""
    code = re.findall(r"`([^`]+)`|^(?: {4}|\$ )(.*)$", page.read_text(), re.MULTILINE)
    found = (re.match(rf"{word} ([a-z]+)", one or other) for one, other in code)
    return {match[1] for match in found if match}


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_patch(text: str, compiler: str, tmp_path: Path) -> None:
    flags = ("-O2", "-g", "-Wall", "-Wextra", "-Werror")
    patch = PatchFile.open(str(SharedObjects(tmp_path)(text, *flags, compiler=compiler)))
    declared = re.findall(
        r"^HOTPATCH_REPLACE(?:_STATIC)?\((?:\".*\", )?(\w+)\)", text, re.MULTILINE
    )
    assert sorted(r.name for r in patch.replacements) == sorted(declared)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    text = page.read_text()
    links = {page.parent / target for target in re.findall(r"\]\(([^)#:]+)\)", text)}
    top = r"`((?:hotpatch|docs|tests|targets|bench|trampolines)/[\w./-]+)`"
    named = {ROOT / path for path in re.findall(top, text)}
    assert [str(path) for path in sorted(links | named) if not path.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_is_there(page: Path) -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert words_after("make", page) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_there(page: Path) -> None:
    from hotpatch.cli.main import COMMANDS  # noqa: PLC0415

    assert words_after("hotpatch", page) <= {*COMMANDS, "build"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_search_finds_something(page: Path) -> None:
    for pattern, file in re.findall(r"`grep -n (\S+) (\S+)`", page.read_text()):
        assert re.search(pattern, (ROOT / file).read_text()), f"grep -n {pattern} {file}"


def test_every_macro_of_the_header_is_explained() -> None:
    header = (ROOT / "hotpatch" / "include" / "hotpatch.h").read_text()
    macros = set(re.findall(r"^#define (HOTPATCH_[A-Z_]*[A-Z])\(", header, re.MULTILINE))
    guide = (ROOT / "docs" / "patch-authors.md").read_text()
    explained = set(re.findall(r"HOTPATCH_[A-Z_]*[A-Z]", guide))
    assert {macro for macro in macros if not macro.endswith("_AS")} <= explained
    assert explained <= macros


def test_every_exit_code_is_explained() -> None:
    page = (ROOT / "docs" / "operators.md").read_text()
    rows = dict(re.findall(r"^\| (\d) \| `?([a-z-]+)", page, re.MULTILINE))
    classes = [hotpatch.HotpatchError, *hotpatch.HotpatchError.__subclasses__()]
    assert errors.Denied in classes
    assert {str(each.exit_code): each.status for each in classes}.items() <= rows.items()

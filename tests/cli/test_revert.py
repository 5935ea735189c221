# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch revert`: which patch, all patches, and only saying so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import hotpatch, regions
from tests.support.compiled import SharedObjects
from tests.support.programs import Program, patch, running


@pytest.fixture
def twice() -> Iterator[Program]:
    """A program with two patches on top of each other: its answer is 3."""
    with running("simple") as program:
        for name in ("answer_2", "answer_3"):
            assert hotpatch("apply", program.pid, patch(name)).code == 0
        yield program


def names(program: Program) -> list[str]:
    """The patches that are applied, oldest first."""
    patches = hotpatch("list", "--json", program.pid).json["patches"]
    return [entry["name"] for entry in patches if entry["state"] == "applied"]


def test_the_newest_by_default(twice: Program) -> None:
    assert hotpatch("revert", "--json", twice.pid).json["patch"]["name"] == "answer_3"
    assert twice.ask()["answer"] == 2


@pytest.mark.parametrize("form", ["id", "start of the id", "name"])
def test_the_one_that_is_named(twice: Program, form: str) -> None:
    entry = hotpatch("list", "--json", twice.pid).json["patches"][1]
    named = {"id": entry["id"], "start of the id": entry["id"][:12], "name": entry["name"]}
    assert hotpatch("revert", twice.pid, named[form]).code == 0
    assert names(twice) == ["answer_2"]


def test_one_that_is_not_there(twice: Program) -> None:
    done = hotpatch("revert", "--json", twice.pid, "ffffffffffff")
    assert (done.code, done.json["status"]) == (3, "refused")
    assert "answer_2" in done.json["hint"]
    assert names(twice) == ["answer_2", "answer_3"]


def test_all(twice: Program) -> None:
    done = hotpatch("revert", "--json", "--all", twice.pid)
    assert done.code == 0
    assert done.json["status"] == "reverted"
    assert [one["name"] for one in done.json["patches"]] == ["answer_3", "answer_2"]
    assert len(done.json["functions"]) == 2
    assert done.json["pause_us"] == max(stop["us"] for stop in done.json["stops"])
    assert twice.ask()["answer"] == 1
    assert regions(twice.pid) == []
    twice.expect_progress()


def test_all_of_nothing() -> None:
    with running("simple") as program:
        assert hotpatch("revert", "--all", program.pid).code == 3


def test_all_and_one(twice: Program) -> None:
    assert hotpatch("revert", "--all", twice.pid, "answer_3").code == 2
    assert names(twice) == ["answer_2", "answer_3"]


@pytest.mark.parametrize("options", [[], ["--all"]], ids=["newest", "all"])
def test_dry_run(twice: Program, options: list[str]) -> None:
    done = hotpatch("revert", "--json", "--dry-run", *options, twice.pid)
    assert (done.code, done.json["status"]) == (0, "ok")
    assert len(done.json["functions"]) == (2 if options else 1)
    text = hotpatch("revert", "--dry-run", *options, twice.pid).out
    assert "answer_3" in text
    assert ("answer_2" in text) == bool(options)
    assert names(twice) == ["answer_2", "answer_3"]
    assert twice.ask()["answer"] == 3


def test_all_stops_where_one_is_busy(tmp_path: Path) -> None:
    staying = SharedObjects(tmp_path)(
        """
        #include <hotpatch.h>
        int compute(int depth)
        {
            int below = HOTPATCH_ORIGINAL(compute)(depth);
            __asm__ volatile(""); /* no tail call */
            return below + 1;
        }
        HOTPATCH_REPLACE(compute);
        HOTPATCH_NAME("staying");
        """,
        "-O2",
    )
    with running("inside", "asleep") as program:
        assert hotpatch("apply", program.pid, staying).code == 0
        assert hotpatch("apply", program.pid, patch("answer_2")).code == 0
        program.ask("enter")
        done = hotpatch("revert", "--json", "--all", "--timeout", "0.1", program.pid)
        assert (done.code, done.json["status"]) == (4, "busy")
        assert [one["name"] for one in done.json["reverted"]] == ["answer_2"]
        assert names(program) == ["staying"]
        assert program.ask("leave")["result"] == 2

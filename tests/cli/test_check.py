# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch check`: says everything and does nothing, in the words of `apply --dry-run`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import hotpatch
from tests.support.programs import Program, patch, running


@pytest.fixture
def program() -> Iterator[Program]:
    """A target."""
    with running("simple") as started:
        yield started


def footprint(pid: int) -> tuple[str, str]:
    """The memory map of a process, and a digest of its code."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    digest = hashlib.sha256()
    with open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps.splitlines():
            addresses, protection, *_, path = line.split(None, 5)
            if "x" in protection and path.strip() != "[vsyscall]":
                start, end = (int(address, 16) for address in addresses.split("-"))
                memory.seek(start)
                digest.update(memory.read(end - start))
    return maps, digest.hexdigest()


def test_the_target_is_untouched(program: Program) -> None:
    program.expect_progress()  # all of its threads have begun, and their allocator with them
    before = footprint(program.pid)
    for options in ([], ["-v"], ["--json"]):
        assert hotpatch("check", *options, program.pid, patch("answer_original")).code == 0
    assert footprint(program.pid) == before
    assert program.ask()["answer"] == 1


def test_the_whole_plan(program: Program) -> None:
    plan = hotpatch("check", "--json", program.pid, patch("answer_original")).json
    assert (plan["status"], plan["pid"]) == ("ok", program.pid)
    assert plan["patch"]["name"] == "answer_original"
    (function,) = plan["functions"]
    assert function["name"] == "answer"
    assert function["writes"][0]["address"] == function["old"]
    assert any(quiet["start"] == function["old"] for quiet in plan["quiet"])
    assert any(quiet["start"] == function["gate"] for quiet in plan["quiet"])
    assert any(
        int(r["address"], 16) <= int(function["new"], 16) < int(r["address"], 16) + r["size"]
        for r in plan["regions"]
    )
    original = [b for b in plan["bindings"] if b["symbol"] == "__hotpatch_original_answer"]
    assert len(original) == 1
    verdicts = {verdict["check"]: verdict["verdict"] for verdict in plan["verdicts"]}
    assert verdicts["function answer"] == "ok"
    assert verdicts["build-id"] == "unknown"


def test_it_is_what_apply_does(program: Program) -> None:
    plan = hotpatch("check", "--json", program.pid, patch("answer_2")).json
    done = hotpatch("apply", "--json", program.pid, patch("answer_2")).json
    for name in ("name", "module", "old"):
        assert done["functions"][0][name] == plan["functions"][0][name]


def test_dry_run_says_the_same(program: Program) -> None:
    check = hotpatch("check", program.pid, patch("answer_2"))
    dry_run = hotpatch("apply", "--dry-run", program.pid, patch("answer_2"))
    assert dry_run == check
    assert program.ask()["answer"] == 1


def test_text(program: Program) -> None:
    done = hotpatch("check", program.pid, patch("answer_2"))
    assert f"answer_2 ({patch_id('answer_2')[:12]}) can be applied to process" in done.out
    assert "function answer" in done.out
    assert "entries to be written" not in done.out
    more = hotpatch("check", "-v", program.pid, patch("answer_2")).out
    assert "entries to be written" in more
    assert "code that has to be quiet" in more


def patch_id(name: str) -> str:
    """The id of a patch."""
    found: str = hotpatch("inspect", "--json", patch(name)).json["patch"]["id"]
    return found


def test_a_refusal(program: Program) -> None:
    done = hotpatch("check", "--json", program.pid, patch("compute"))
    assert (done.code, done.json["status"]) == (3, "refused")
    assert "compute" in done.json["reason"]


def test_quiet(program: Program) -> None:
    done = hotpatch("check", "-q", program.pid, patch("answer_2"))
    assert (done.code, done.out, done.err) == (0, "", "")

# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch list`: one process, every process, and what dead patchers leave."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from tests.cli.running import hotpatch, started, wait_until_staged
from tests.support.programs import Program, patch, running


def listed(program: Program) -> list[dict[str, Any]]:
    """The patches of a program."""
    done = hotpatch("list", "--json", program.pid)
    assert done.code == 0
    assert done.json["pid"] == program.pid
    patches: list[dict[str, Any]] = done.json["patches"]
    return patches


def test_a_process_without_patches() -> None:
    with running("simple") as program:
        assert listed(program) == []
        done = hotpatch("list", program.pid)
        assert (done.code, done.out) == (0, "")
        assert "no patches" in done.err


def test_an_applied_patch() -> None:
    with running("simple") as program:
        before = datetime.now(timezone.utc)
        applied = hotpatch("apply", "--json", program.pid, patch("answer_2")).json
        after = datetime.now(timezone.utc)
        (entry,) = listed(program)
        assert entry["id"] == applied["patch"]["id"]
        assert entry["name"] == "answer_2"
        assert entry["state"] == "applied"
        assert entry["functions"] == ["answer"]
        at = datetime.strptime(entry["applied_at"], "%Y-%m-%dT%H:%M:%S.%fZ")
        at = at.replace(tzinfo=timezone.utc)
        assert before - timedelta(milliseconds=1) <= at <= after


def test_text() -> None:
    with running("simple") as program:
        applied = hotpatch("apply", "--json", program.pid, patch("answer_2")).json
        done = hotpatch("list", program.pid)
        heading, row = done.out.splitlines()
        assert heading.split()[:4] == ["PID", "PATCH", "NAME", "STATE"]
        short = applied["patch"]["id"][:12]
        assert row.split()[:4] == [str(program.pid), short, "answer_2", "applied"]
        assert row.endswith("answer")


def test_every_process() -> None:
    with running("simple") as one, running("simple") as other, running("simple") as bare:
        for program in (one, other):
            assert hotpatch("apply", program.pid, patch("answer_2")).code == 0
        found = {entry["pid"]: entry["patches"] for entry in hotpatch("list", "--json").json}
        assert [p["name"] for p in found[one.pid]] == ["answer_2"]
        assert [p["name"] for p in found[other.pid]] == ["answer_2"]
        assert bare.pid not in found


def test_what_a_dead_patcher_left_is_staged() -> None:
    with running("inside", "asleep") as program:
        program.ask("enter")
        with started("apply", program.pid, patch("compute")) as patcher:
            wait_until_staged(program)
            patcher.kill()
            patcher.wait()
        (entry,) = listed(program)
        assert (entry["state"], entry["applied_at"]) == ("staged", None)
        program.ask("leave")
        assert hotpatch("apply", program.pid, patch("compute")).code == 0
        (entry,) = listed(program)
        assert entry["state"] == "applied"


def test_a_reverted_patch_that_another_one_lies_on() -> None:
    with running("simple") as program:
        lower = hotpatch("apply", "--json", program.pid, patch("answer_2")).json["patch"]["id"]
        hotpatch("apply", program.pid, patch("answer_3"))
        done = hotpatch("revert", program.pid, lower)
        assert done.code == 0
        assert "stays until answer_3" in done.err
        assert {e["name"]: e["state"] for e in listed(program)} == {
            "answer_2": "reverted",
            "answer_3": "applied",
        }
        assert program.ask()["answer"] == 3

# SPDX-License-Identifier: GPL-2.0-or-later
"""Targets under seccomp filters: what a borrowed thread may not do is not tried."""

from __future__ import annotations

import pytest

import hotpatch
from tests.support.programs import patch, running

FORBIDDEN = {
    "kill-mmap": "mmap",
    "errno-exec": "mmap",
    "no-memfd": "memfd_create",
    "kill-wait": "rt_sigtimedwait",
    "strict": "mmap",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_call_that_the_filter_forbids_is_not_made(name: str) -> None:
    with running("seccomp", name) as program:
        with pytest.raises(hotpatch.Denied) as denied:
            hotpatch.apply(program.pid, patch("answer_2"))
        assert denied.value.reason.endswith(f"has a seccomp filter that forbids {FORBIDDEN[name]}")
        assert denied.value.cause == "seccomp"
        assert program.expect_progress()["answer"] == 1
        assert hotpatch.patches(program.pid) == []


def test_a_filter_that_allows_all_is_no_obstacle() -> None:
    with running("seccomp", "allow") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        assert program.expect_progress()["answer"] == 2
        hotpatch.revert(program.pid)
        assert program.expect_progress()["answer"] == 1

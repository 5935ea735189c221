# SPDX-License-Identifier: GPL-2.0-or-later
"""The target of forty functions: its line protocol, and the progress of each thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.targets.servers import attempts

Start = Callable[..., Any]
KINDS = ["spin", "nanosleep", "poll", "epoll", "read", "futex"]


def ask(target: Any) -> dict[str, str]:
    return dict(field.split("=", 1) for field in target.ask("ask").split(" "))


def progress(target: Any) -> list[int]:
    return [int(count) for count in ask(target)["progress"].split(",")]


@pytest.fixture
def forty(start: Start) -> Any:
    target = start("forty")
    ready = target.ready()
    assert ready == {"pid": str(target.pid), "threads": "6"}
    return target


def test_all_functions_agree(forty: Any) -> None:
    answer = ask(forty)
    del answer["progress"]
    assert answer == {"sum": "40", "f00": "1", "mixed": "0", "interrupted": "0"}


def test_a_thread_of_each_kind_makes_progress(forty: Any) -> None:
    assert forty.ask("kinds").split(",") == KINDS
    before = progress(forty)
    assert min(before) >= 1
    for _ in attempts():
        if all(now > then + 1 for now, then in zip(progress(forty), before, strict=True)):
            break


def test_spinners_are_limited(start: Start) -> None:
    target = start("forty", "--threads", "100", "--spinners", "0", "--period-ms", "50")
    assert target.ready()["threads"] == "100"
    kinds = target.ask("kinds").split(",")
    assert len(kinds) == len(progress(target)) == 100
    assert set(kinds) == set(KINDS[1:])


def test_an_unknown_question_is_an_error(forty: Any) -> None:
    assert forty.ask("frob") == "ERR unknown command"


def test_quit_and_sigterm_end_it_cleanly(start: Start, forty: Any) -> None:
    assert forty.ask("quit") == ""
    assert forty.process.wait() == 0
    other = start("forty")
    other.ready()
    assert other.stop() == 0

# SPDX-License-Identifier: GPL-2.0-or-later
"""How a target is judged: by what all its threads answer, and by what is in its memory.

with untouched(program), refused("no function", "compute"):
    hotpatch.apply(program.pid, path)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

import hotpatch
from tests.support.proc import Mapping, descriptors, maps
from tests.support.programs import Program

Reply = dict[str, Any]


def expect_answer(program: Program, expected: int) -> Reply:
    """Check that every thread of a program works on and answers this; return its last reply.

    Two rounds: a thread may have got its last answer before the commit and counts it only now.
    """
    program.expect_progress()
    reply = program.expect_progress()
    assert reply["answer"] == expected
    assert set(reply["answers"]) == {expected}
    return reply


def regions(pid: int) -> list[Mapping]:
    """The headers of all that hotpatch has in a process's memory."""
    return [mapping for mapping in maps(pid) if "/memfd:hotpatch-" in mapping.path]


class Traces(NamedTuple):
    """What an update could leave behind in a process."""

    mappings: tuple[Mapping, ...]
    code: dict[int, bytes]  # of the program and its libraries, by address
    descriptors: dict[int, str]


def traces(pid: int) -> Traces:
    """Read them."""
    found = maps(pid)
    with open(f"/proc/{pid}/mem", "rb") as memory:
        code = {}
        for mapping in found:
            if "x" in mapping.permissions and mapping.path.startswith("/"):
                memory.seek(mapping.start)
                code[mapping.start] = memory.read(mapping.end - mapping.start)
    return Traces(tuple(found), code, descriptors(pid))


@contextmanager
def untouched(program: Program) -> Iterator[None]:
    """Check that a process is byte for byte as before, and that all its threads work on."""
    answer = program.expect_progress()["answer"]
    before = traces(program.pid)
    yield
    assert traces(program.pid) == before
    assert program.expect_progress()["answer"] == answer


@contextmanager
def refused(
    *words: str, error: type[hotpatch.HotpatchError] = hotpatch.Refused
) -> Iterator[pytest.ExceptionInfo[hotpatch.HotpatchError]]:
    """Check that an error of exactly this class is raised, and what its reason and hint say."""
    with pytest.raises(hotpatch.HotpatchError) as caught:
        yield caught
    assert type(caught.value) is error, caught.value
    text = f"{caught.value.reason} | {caught.value.hint}"
    assert caught.value.reason
    assert [word for word in words if word not in text] == [], text

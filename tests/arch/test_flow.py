# SPDX-License-Identifier: GPL-2.0-or-later
"""Where control can go inside a function."""

from __future__ import annotations

import pytest

from hotpatch.arch.assembler import Code, assemble
from hotpatch.arch.flow import call_before, reaches

AT = 0x10000
LOOP = """
        push rbx
head:
        mov edi, 3
site:   call 0x20000
back:   test eax, eax
        je head
        jmp out
dead:   jmp head
out:    pop rbx
        ret
"""
TWICE = """
site:   call 0x20000
back:   nop
other:  call 0x20000
behind: ret
"""
INDIRECT = """
site:   call 0x20000
back:   jmp qword ptr [rax*8 + 0x3000]
        jmp site
"""


def code(text: str) -> Code:
    """The code of a text, and where its labels are."""
    return assemble(text, AT)


@pytest.mark.parametrize(
    ("text", "start", "goal", "expected"),
    [
        (LOOP, "back", "site", True),
        (LOOP, "back", "out", True),
        (LOOP, "back", "dead", False),
        (LOOP, "out", "site", False),
        (LOOP, "dead", "site", True),
        (TWICE, "back", "other", True),
        (TWICE, "back", "site", False),
        (INDIRECT, "back", "site", False),
    ],
)
def test_what_is_reached(text: str, start: str, goal: str, expected: bool) -> None:
    made = code(text)
    assert reaches(made.code, AT, made.labels[start], made.labels[goal]) is expected


def test_a_place_that_is_no_instruction_is_not_reached() -> None:
    made = code(LOOP)
    assert not reaches(made.code, AT, made.labels["back"] + 1, made.labels["site"])
    assert not reaches(made.code, AT, made.labels["back"], made.labels["site"] + 1)


def test_the_call_that_returns_somewhere() -> None:
    made = code(TWICE)
    labels = made.labels
    assert call_before(made.code, AT, labels["back"]) == labels["site"]
    assert call_before(made.code, AT, labels["behind"]) == labels["other"]
    assert call_before(made.code, AT, labels["other"]) is None
    assert call_before(made.code, AT, AT) is None

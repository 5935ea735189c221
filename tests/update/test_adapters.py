# SPDX-License-Identifier: GPL-2.0-or-later
"""A function that gets another signature: old callers go by way of an adapter."""

from __future__ import annotations

import pytest

import hotpatch
from tests.support.compiled import CompileShared
from tests.support.programs import Program
from tests.update.judging import expect_answer

PATCH = """
#include <hotpatch.h>
struct result { long pad[3]; int value; };
struct result answer(double base, const char *text);
struct result answer(double base, const char *text)
{
    struct result result = {{0, 0, 0}, (int)base + (text[0] == 'x')};
    return result;
}
static int answer_for_old_callers(void) { return answer(4.5, "x").value; }
HOTPATCH_ADAPT(answer, answer_for_old_callers);
static int whisper(void)
{
    struct result (*pointer)(double, const char *) = answer;
    return pointer(7, "").value * 10 + answer(1, "x").value;
}
HOTPATCH_REPLACE_STATIC("simple.c", whisper);
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("option", ["-O0", "-O2"])
def test_new_callers_call_the_new_one(
    compiler: str, option: str, simple: Program, compile_shared: CompileShared
) -> None:
    hotpatch.apply(simple.pid, compile_shared(PATCH, option, compiler=compiler))
    reply = expect_answer(simple, 5)
    assert reply["whisper"] == 72
    hotpatch.revert(simple.pid)
    assert expect_answer(simple, 1)["whisper"] == 1

# SPDX-License-Identifier: GPL-2.0-or-later
"""Constructors and destructors of a patch: run at the commit, or nothing of the patch stays."""

from __future__ import annotations

import pytest

import hotpatch
from tests.support.compiled import CompileShared
from tests.support.programs import Program, patch, running
from tests.update.cycles import pairs
from tests.update.judging import expect_answer, refused, regions, untouched

ANSWER_2 = """
#include <hotpatch.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static volatile int value = 2;
int answer(void) { return value; }
HOTPATCH_REPLACE(answer);
"""


def constructor(body: str) -> str:
    """A patch that answers 2, or what its constructor sets."""
    return f"{ANSWER_2}\n__attribute__((constructor)) static void construct(void) {{ {body} }}"


def test_they_run_once_and_in_order(simple: Program) -> None:
    for _ in range(3):
        hotpatch.apply(simple.pid, patch("answer_constructor"))
        expect_answer(simple, 5)
        hotpatch.revert(simple.pid)
        expect_answer(simple, 1)
    assert regions(simple.pid) == []


CRASHES = {
    "null pointer": ("*(volatile int *)8 = 1;", "signal 11"),
    "illegal instruction": ("__builtin_trap();", "signal 4"),
    "division by zero": ("value = 100 / (value - 2);", "signal 8"),
    "abort": ("abort();", "signal 6"),
    "its stack": ("char *end = __builtin_frame_address(0); for (;;) *(end -= 64) = 1;", "signal"),
}


@pytest.mark.parametrize("name", CRASHES)
def test_one_that_crashes(name: str, simple: Program, compile_shared: CompileShared) -> None:
    body, what = CRASHES[name]
    path = compile_shared(constructor(body), "-O0")
    with untouched(simple), refused("constructor", what, error=hotpatch.RolledBack):
        hotpatch.apply(simple.pid, str(path))


def test_one_that_crashes_after_others_have_run(
    simple: Program, compile_shared: CompileShared
) -> None:
    path = compile_shared(
        ANSWER_2
        + """
        __attribute__((constructor(101))) static void first(void) { value = 7; }
        __attribute__((constructor(102))) static void second(void) { *(volatile int *)8 = 1; }
        """
    )
    with untouched(simple), refused("signal 11", error=hotpatch.RolledBack):
        hotpatch.apply(simple.pid, str(path))


@pytest.mark.parametrize("body", ["for (;;) value = 2;", "for (;;) pause();"], ids=["busy", "idle"])
def test_one_that_never_ends(body: str, simple: Program, compile_shared: CompileShared) -> None:
    path = compile_shared(constructor(body))
    with untouched(simple), refused("did not end within", error=hotpatch.RolledBack):
        hotpatch.apply(simple.pid, str(path))
    assert simple.ask()["main_eintr"] == 0


def test_one_that_waits_for_a_lock_that_nobody_gives(
    simple: Program, compile_shared: CompileShared
) -> None:
    body = """
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    pthread_mutex_lock(&lock);
    """
    path = compile_shared(constructor(body))
    with untouched(simple), refused("lock", error=hotpatch.Busy):
        hotpatch.apply(simple.pid, str(path), timeout=0.5)


def test_one_that_mallocs_in_a_program_that_does_nothing_else(
    compile_shared: CompileShared,
) -> None:
    body = """
    char *block = malloc(3000);
    memset(block, 0x5a, 3000);
    value = block[0] == block[2999] ? 9 : 99;
    free(block);
    """
    path = compile_shared(constructor(body))
    with running("mallocs") as program:
        for _ in range(3):
            hotpatch.apply(program.pid, str(path), timeout=60)
            expect_answer(program, 9)
            hotpatch.revert(program.pid)
        assert expect_answer(program, 1)["corrupted"] == 0


def test_one_that_uses_vector_registers_and_errno(compile_shared: CompileShared) -> None:
    body = """
    volatile double x[64];
    for (int i = 0; i < 64; i++) x[i] = i * 0.5;
    if (close(-1) == -1) value = (int)(x[4] + x[10]);
    """
    path = compile_shared(constructor(body), "-O3", "-ffast-math")
    with running("registers") as program:
        for _ in range(3):
            hotpatch.apply(program.pid, str(path))
            expect_answer(program, 7)
            hotpatch.revert(program.pid)
        reply = expect_answer(program, 1)
        assert reply["mismatches"] == 0, reply["detail"]


DESTRUCTOR = """
extern volatile int loudness;
__attribute__((constructor)) static void begin(void) { loudness = 70; }
__attribute__((destructor)) static void finish(void) { %s }
"""


def test_destructors_run_at_the_revert(simple: Program, compile_shared: CompileShared) -> None:
    path = compile_shared(ANSWER_2 + DESTRUCTOR % "loudness = 14;")
    hotpatch.apply(simple.pid, str(path))
    assert simple.ask()["loudness"] == 70
    hotpatch.revert(simple.pid)
    assert simple.ask()["loudness"] == 14
    expect_answer(simple, 1)
    assert regions(simple.pid) == []


@pytest.mark.parametrize("body", ["*(volatile int *)8 = 1;", "for (;;) loudness = 14;"])
def test_a_destructor_that_fails_does_not_keep_the_patch(
    body: str, simple: Program, compile_shared: CompileShared
) -> None:
    path = compile_shared(ANSWER_2 + DESTRUCTOR % body)
    hotpatch.apply(simple.pid, str(path))
    (warning,) = hotpatch.revert(simple.pid).warnings
    assert "destructor" in warning
    expect_answer(simple, 1)
    assert regions(simple.pid) == []


def test_constructors_again_and_again(simple: Program) -> None:
    pairs(simple.pid, 10, patch("answer_constructor"))
    expect_answer(simple, 1)

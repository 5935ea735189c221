# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of every kind, patched and reverted: new answers in between, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from shutil import which

import pytest

import hotpatch
from hotpatch.update.result import Result
from tests.support.compiled import CompileShared
from tests.support.programs import PROGRAMS, Program, patch, running
from tests.update.judging import expect_answer, refused, regions, traces, untouched

KINDS = ["", "-nopie", "-static", "-static-pie", "-debuglink", "-dynsym"]
if which("musl-gcc"):
    KINDS += ["-musl", "-musl-static"]
WITH_STATICS = [kind for kind in KINDS if kind != "-dynsym"]


TLS = (PROGRAMS / "patches" / "tls.c").read_text()
LIBC_7 = (PROGRAMS / "patches" / "answer_libc.c").read_text()


@contextmanager
def patched(program: Program, path: str, *replace: str) -> Iterator[Result]:
    """Have a patch in a program; with it out again, all is as it was."""
    before = traces(program.pid)
    result = hotpatch.apply(program.pid, path, replace=replace)
    assert (result.status, result.warnings) == ("applied", ())
    yield result
    assert hotpatch.revert(program.pid, result.patch.id).warnings == ()
    assert traces(program.pid) == before
    expect_answer(program, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_executable_of_each_kind(kind: str) -> None:
    with running(f"simple{kind}") as program:
        program.expect_progress()
        for _ in range(2):
            with patched(program, patch("answer_2")):
                expect_answer(program, 2)


@pytest.mark.parametrize("kind", WITH_STATICS)
def test_a_static_function_and_its_variable_in_each_kind(kind: str) -> None:
    with running(f"simple{kind}") as program:
        reply = program.expect_progress()
        assert (reply["whisper"], reply["loudness"]) == (1, 7)
        with patched(program, patch("simple_static")):
            assert program.ask()["whisper"] == 14
            assert program.ask()["loudness"] == 14
        assert program.ask()["whisper"] == 2  # the old code, and what the new code stored


def test_a_static_function_that_only_debug_files_name_is_not_found_without_them() -> None:
    with running("simple-dynsym") as program, untouched(program), refused("whisper", "simple.c"):
        hotpatch.apply(program.pid, patch("simple_static"))


def test_the_original_is_called(simple: Program) -> None:
    simple.expect_progress()
    with patched(simple, patch("answer_original")):
        expect_answer(simple, 11)


@pytest.mark.parametrize("kind", ["", "-nopie", "-static", "-musl"])
def test_functions_and_data_of_the_c_library(kind: str, compile_shared: CompileShared) -> None:
    path = compile_shared(LIBC_7, compiler="musl-gcc" if kind == "-musl" else "gcc")
    with running(f"simple{kind}") as program:
        program.expect_progress()
        with patched(program, str(path)):
            expect_answer(program, 7)


@pytest.mark.parametrize(("replace", "expected"), [("answer", 2), ("answer=other_answer", 4)])
def test_a_shared_object_without_a_manifest(simple: Program, replace: str, expected: int) -> None:
    simple.expect_progress()
    with patched(simple, patch("answer_plain"), replace):
        expect_answer(simple, expected)


MODELS = {
    "global_dynamic": ("-ftls-model=global-dynamic",),
    "initial_exec": ("-ftls-model=initial-exec", "-DSTATIC"),
    "descriptors": ("-mtls-dialect=gnu2", "-DSTATIC"),
}


@pytest.mark.parametrize("model", MODELS)
def test_thread_local_variables(model: str, compile_shared: CompileShared) -> None:
    static = "-DSTATIC" in MODELS[model]
    path = compile_shared(TLS, "-O2", "-I", str(PROGRAMS / "patches"), *MODELS[model])
    with running("tls") as program:
        program.expect_progress()
        with patched(program, str(path)):
            program.expect_progress()
            reply = program.expect_progress()
            assert reply["answers"] == [n + 10 * n + 100 * n * (not static) for n in range(4)]
            assert reply["values"] == [[n, 10 * n, 100 * n] for n in range(4)]


def test_thread_local_variables_without_a_fixed_place_by_descriptor() -> None:
    with running("tls") as program:
        program.expect_progress()
        with untouched(program), refused("in_opened", "libtls_opened.so", "-ftls-model"):
            hotpatch.apply(program.pid, patch("tls_descriptors"))


def test_a_program_and_two_libraries_by_one_patch() -> None:
    with running("tls") as program:
        program.expect_progress()
        with patched(program, patch("libraries")) as result:
            assert len({function.module for function in result.functions}) == 3
            reply = expect_answer(program, 2)
            assert (reply["linked_answer"], reply["opened_answer"]) == (2, 12)
            near = {region.start >> 40 for region in regions(program.pid)}
            assert len(regions(program.pid)) == len(near) == 2  # one for the program
        assert (program.ask()["linked_answer"], program.ask()["opened_answer"]) == (1, 1)


def test_functions_and_variables_added_by_a_patch(
    simple: Program, compile_shared: CompileShared
) -> None:
    simple.expect_progress()
    path = compile_shared(
        """
        #include <hotpatch.h>
        static int zeroed[5000], filled[] = {1, 2, 3};
        int (*chosen)(int);
        __attribute__((noinline)) int added(int x) { return x + filled[2] + zeroed[4999]; }
        int answer(void) {
            static int local = 35;
            chosen = added;
            zeroed[4999] = 2;
            return chosen(local);
        }
        HOTPATCH_REPLACE(answer);
        """,
        "-O2",
    )
    with patched(simple, str(path)):
        expect_answer(simple, 40)


FUNCTIONS = {"one": 1, "forty": 40, "thousand": 1000}


@pytest.mark.parametrize("number", FUNCTIONS)
def test_all_functions_of_a_patch_change_at_one_moment(number: str) -> None:
    """Each thread sees the version change once a commit, and never a mixture."""
    with running("many", str(FUNCTIONS[number])) as program:
        assert program.expect_progress()["new"] == 0
        with patched(program, patch(f"many_{number}_2")) as result:
            assert len(result.functions) == FUNCTIONS[number]
            reply = expect_answer(program, 1)
            assert (reply["old"], reply["switches"], reply["wrong"]) == (0, [1, 1], 0)
        reply = program.expect_progress()
        assert (reply["new"], reply["switches"], reply["wrong"]) == (0, [2, 2], 0)


def test_forty_functions_twice() -> None:
    with running("many", "40") as program:
        program.expect_progress()
        with patched(program, patch("many_forty_2")):
            program.expect_progress()
            hotpatch.apply(program.pid, patch("many_forty_3"))
            program.expect_progress()
            reply = program.expect_progress()
            assert (reply["versions"][3], reply["switches"]) == (40, [2, 2])
            hotpatch.revert(program.pid)
            program.expect_progress()
            reply = program.expect_progress()
            assert (reply["versions"][2], reply["switches"]) == (40, [3, 3])
        assert program.expect_progress()["switches"] == [4, 4]

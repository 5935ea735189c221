# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches that don't fit: refused by a reason and a hint, with the target untouched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import hotpatch
from hotpatch.process.image import Process
from tests.support.compiled import CompileShared, run_compiler
from tests.support.programs import PROGRAMS, Program, patch, running, started
from tests.update.judging import expect_answer, refused, untouched

HEADER = "#include <hotpatch.h>\n#include <stdlib.h>\n"
ANSWER = HEADER + "int answer(void) { return %s; }\nHOTPATCH_REPLACE(answer);\n"

Text = tuple[str, tuple[str, ...]]  # a patch's source, and what its refusal says
REFUSED: dict[str, Text] = {
    "another build of the program": (
        ANSWER % 2 + 'HOTPATCH_FOR_BUILD_ID("0123456789abcdef");',
        ("build-id", "0123456789abcdef", "/simple"),
    ),
    "another build of a library": (
        ANSWER % 2 + 'HOTPATCH_FOR_MODULE_BUILD_ID("libc.so.6", "0123456789abcdef");',
        ("build-id", "0123456789abcdef", "libc"),
    ),
    "a library that is not loaded": (
        ANSWER % 2 + 'HOTPATCH_FOR_MODULE_BUILD_ID("libnone.so.1", "0123456789abcdef");',
        ("libnone.so.1", "not loaded"),
    ),
    "a function that is not there": (
        HEADER + "int anwser(void) { return 2; } HOTPATCH_REPLACE(anwser);",
        ("`anwser`", "answer"),
    ),
    "a variable instead of a function": (
        HEADER + "int loudness(void) { return 2; } HOTPATCH_REPLACE(loudness);",
        ("loudness",),
    ),
    "a static function of another file": (
        HEADER + 'int whisper(void) { return 2; } HOTPATCH_REPLACE_STATIC("other.c", whisper);',
        ("whisper", "other.c", "simple.c"),
    ),
    "an undefined function": (
        HEADER + "extern int wisper(void);" + (ANSWER % "wisper()")[len(HEADER) :],
        ("wisper", "whisper"),
    ),
    "an undefined variable": (
        HEADER + "extern int nowhere;" + (ANSWER % "nowhere")[len(HEADER) :],
        ("nowhere",),
    ),
    "thread-local variables of its own": (
        HEADER + "__thread int mine = 2;" + (ANSWER % "mine++")[len(HEADER) :],
        ("thread-local variables", "extern __thread"),
    ),
    "static thread-local variables": (
        HEADER + "static __thread int mine = 2;" + (ANSWER % "mine++")[len(HEADER) :],
        ("thread-local",),
    ),
    "the original of what it doesn't replace": (
        HEADER
        + "extern int unused(void);"
        + (ANSWER % "HOTPATCH_ORIGINAL(unused)()")[len(HEADER) :],
        ("HOTPATCH_ORIGINAL(unused)", "HOTPATCH_REPLACE(unused)"),
    ),
    "nothing to replace": ("int answer(void) { return 2; }", ("says nothing about what",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit(name: str, simple: Program, compile_shared: CompileShared) -> None:
    text, words = REFUSED[name]
    path = str(compile_shared(text, "-O1"))
    for attempt in (hotpatch.check, hotpatch.apply):
        with untouched(simple), refused(*words) as caught:
            attempt(simple.pid, path)
        assert caught.value.hint


def test_a_static_function_of_several_files(compile_shared: CompileShared, tmp_path: Path) -> None:
    """It has to be said which; then the other one stays as it is."""
    other = tmp_path / "other.c"
    other.write_text(
        "static int __attribute__((noipa)) whisper(void) { return 5; }\n"
        "int shout(void) { return whisper(); }\n"
        "int (*volatile shouted)(void) = shout;\n"
    )
    sources = [PROGRAMS / name for name in ("simple.c", "program.c", "answer.c")]
    program_path = tmp_path / "two"
    run_compiler("gcc", "-O2", "-pthread", *sources, other, "-o", program_path)
    replacement = HEADER + "static int whisper(void) { return 2; } HOTPATCH_REPLACE%s;"
    ambiguous = compile_shared(replacement % "(whisper)")
    with started([str(program_path)]) as program:
        with untouched(program), refused("2 statics `whisper`", "simple.c", "other.c"):
            hotpatch.apply(program.pid, str(ambiguous))
        other_one = compile_shared(replacement % '_STATIC("other.c", whisper)')
        hotpatch.apply(program.pid, str(other_one))
        assert program.ask()["whisper"] == 1
        simple_one = compile_shared(replacement % '_STATIC("simple.c", whisper)')
        hotpatch.apply(program.pid, str(simple_one))
        assert program.ask()["whisper"] == 2


def test_the_right_build(simple: Program, compile_shared: CompileShared) -> None:
    with Process(simple.pid) as process:
        ids = {m.name: (m.elf.build_id or b"").hex() for m in process.modules}
    libc = next(name for name in ids if "libc" in name)
    path = compile_shared(
        ANSWER % 2
        + f'HOTPATCH_FOR_BUILD_ID("{ids["simple"]}");'
        + f'HOTPATCH_FOR_MODULE_BUILD_ID("{libc}", "{ids[libc]}");'
    )
    hotpatch.apply(simple.pid, str(path))
    expect_answer(simple, 2)


def test_a_library_that_is_needed_and_not_loaded(
    simple: Program, compile_shared: CompileShared, tmp_path: Path
) -> None:
    library = tmp_path / "libneeded.so"
    compile_shared("int needed(void) { return 2; }").rename(library)
    path = compile_shared(
        HEADER + "int needed(void);" + (ANSWER % "needed()")[len(HEADER) :], str(library)
    )
    with untouched(simple), refused("libneeded.so", "not loaded"):
        hotpatch.apply(simple.pid, str(path))


@pytest.mark.parametrize(
    ("replace", "words"),
    [
        ("answr", ("answr",)),
        ("answer=missing", ("missing",)),
        ("answer=", ("answer",)),
        ("", ("OLD=NEW",)),
    ],
)
def test_a_plain_shared_object(replace: str, words: tuple[str, ...], simple: Program) -> None:
    with untouched(simple), refused(*words):
        hotpatch.apply(simple.pid, patch("answer_plain"), replace=[replace])


def test_a_patch_that_others_can_write(simple: Program, tmp_path: Path) -> None:
    path = tmp_path / "open.so"
    path.write_bytes(Path(patch("answer_2")).read_bytes())
    path.chmod(0o666)
    with untouched(simple), refused("--force") as caught:
        hotpatch.apply(simple.pid, str(path))
    assert caught.value.forceable
    hotpatch.apply(simple.pid, str(path), force=True)
    expect_answer(simple, 2)


FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("patch\n"),
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "program": lambda path: path.write_bytes(Path("/bin/true").read_bytes()),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_patch(kind: str, simple: Program, tmp_path: Path) -> None:
    FILES[kind](tmp_path / "it")
    with untouched(simple), refused(str(tmp_path / "it")):
        hotpatch.apply(simple.pid, str(tmp_path / "it"))


def test_a_patch_that_was_written_anew_after_its_check(simple: Program, tmp_path: Path) -> None:
    path = tmp_path / "fix.so"
    path.write_bytes(Path(patch("answer_2")).read_bytes())
    with hotpatch.Target(simple.pid) as target:
        plan = target.plan(str(path))
        path.write_bytes(Path(patch("answer_3")).read_bytes())
        with untouched(simple), refused("fix.so", "changed since"):
            target.apply(plan)
        assert target.apply(target.plan(str(path))).status == "applied"
    expect_answer(simple, 3)


def test_code_that_is_not_that_of_its_file(simple: Program) -> None:
    """As if a debugger had left a breakpoint in it; nothing is called, so nobody runs into it."""
    with running("inside", "asleep") as program:
        with Process(program.pid) as process:
            (symbol,) = process.modules[0].elf.symbols.by_name("compute")
            address = process.modules[0].bias + symbol.value
            was = process.read(address + 1, 1)
            process.memory.write(address + 1, b"\xcc")
        with untouched(program), refused("compute", "differs from its file", "breakpoint"):
            hotpatch.apply(program.pid, patch("compute"))
        with Process(program.pid) as process:
            process.memory.write(address + 1, was)
        hotpatch.apply(program.pid, patch("compute"))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of a function that the compiler has inlined: they don't go on with old code unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.build.project import Project, Running, build, run

SOURCE = """\
int total;
int work(int n) { total += n; return n * 3; }
__attribute__((noinline)) int first(int n) { return work(n) + 1; }
__attribute__((noinline)) static int second(int n) { return first(n) + work(n + 1); }
int (*volatile pointer)(int) = work;
int answer(int n, char *out) { (void)out; return pointer(n) * 1000 + second(n); }
"""
OTHER = "static int work(int n) { return n; }\nint other(int n) { return work(n); }\n"
WORK = "int work(int n) { return n * 4; }\nHOTPATCH_REPLACE(work);\n"
CALLERS = """\
int first(int n) { return work(n) + 1; }
HOTPATCH_REPLACE(first);
static int second(int n) { return first(n) + work(n + 1); }
HOTPATCH_REPLACE_STATIC("a.c", second);
"""


@pytest.fixture(scope="module", params=["gcc", "clang"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A program with copies of `work` in two functions, and another `work` in another file."""
    directory = tmp_path_factory.mktemp("inlined")
    return Project(directory, {"a.c": SOURCE, "b.c": OTHER}, compiler=request.param)


def tried(project: Project, program: Running, source: str, *options: str) -> tuple[int, dict]:  # type: ignore[type-arg]
    """Compile a patch and apply it; returns exit code and JSON object."""
    path = project.directory / "fix.c"
    path.write_text("#include <hotpatch.h>\n" + source)
    code, fields = build(path, "-o", path.with_suffix(".so"))
    assert code == 0, fields
    return run("apply", *options, program.pid, path.with_suffix(".so"))


def test_copies_are_named(project: Project) -> None:
    with project.running() as program:
        code, fields = tried(project, program, WORK)
        assert code == 3
        assert "`work` is inlined in first (" in fields["reason"]
        assert "second (" in fields["reason"]
        assert "other" not in fields["reason"]
        assert "--force" in fields["hint"]
        assert program.ask(5) == str(15 * 1000 + 16 + 18)


def test_by_force(project: Project) -> None:
    with project.running() as program:
        code, fields = tried(project, program, WORK, "--force")
        assert code == 0, fields
        assert "inlined in first" in fields["warnings"][0]
        assert program.ask(5) == str(20 * 1000 + 16 + 18)


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        (CALLERS, 20 * 1000 + 21 + 24),
        ('HOTPATCH_UNAFFECTED(first);\nHOTPATCH_UNAFFECTED_STATIC("a.c", second);\n',
         20 * 1000 + 16 + 18),
    ],
)  # fmt: skip
def test_the_author_has_seen_to_it(project: Project, more: str, answer: int) -> None:
    with project.running() as program:
        code, fields = tried(project, program, WORK + more)
        assert code == 0, fields
        assert fields["warnings"] == []
        assert program.ask(5) == str(answer)


def test_one_left(project: Project) -> None:
    with project.running() as program:
        code, fields = tried(project, program, WORK + "HOTPATCH_UNAFFECTED(first);\n")
        assert code == 3
        assert "inlined in second (" in fields["reason"]


def test_a_patch_without_debug_information(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CFLAGS", "-O2 -g0")
    with project.running() as program:
        code, fields = tried(project, program, WORK)
        assert code == 3
        assert "inlined in first" in fields["reason"]

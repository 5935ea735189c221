# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hotpatch build` does besides: refusals, nothing to do, the same bytes, two builds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.build.project import Project, build, run
from tests.build.test_diffs import CASES
from tests.support.proc import maps

SOURCE = """\
#include <assert.h>
#include <stdio.h>
#include <time.h>
struct item { int key; long value; };
struct item items[4] = {{1, 10}, {2, 20}, {3, 30}, {4, 40}};
int limits[3] = {1, 2, 3};
const char version[] = "1.0";
static int unused(void) { return 4; }
__attribute__((noinline)) int checked(int n) { assert(n != 77); return n + items[n & 3].key; }
int answer(int n, char *out)
{
    (void)out;
    assert(n < 1000);
    return checked(n) * 3 + limits[n % 3] + (n == 99 ? unused() : 0);
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A program to be patched."""
    return Project(tmp_path, {"a.c": SOURCE})


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (("{1, 2, 3}", "{1, 2, 4}"), ["initial value of `limits`", "--keep limits"]),
        (("int limits[3] = {1, 2, 3}", "int limits[4] = {1, 2, 3, 4}"), ["`limits` has 12 bytes"]),
        (("int key; long value;", "int key; int more; long value; char c;"),
         ["`struct item`", "--changed-type 'struct item'", "hotpatch transform"]),
        (("int key; long value;", "long value; int key;"), ["`struct item`: member `key` is at 0"]),
        (("static int unused(void) { return 4; }",
          "static __thread int mine; int use(void) { return ++mine; }\n"
          "static int unused(void) { return use(); }"),
         ["thread-local variable `mine`", "it is new"]),
        (("static int unused",
          "__attribute__((constructor)) static void early(void) { limits[0] = 7; }\n"
          "static int unused"),
         ["runs before main"]),
    ],
)  # fmt: skip
def test_what_cannot_be_patched(
    project: Project, change: tuple[str, str], names: list[str]
) -> None:
    said = project.refusal({"a.c": change})
    for name in names:
        assert name in said


def test_a_constant_that_others_use(tmp_path: Path) -> None:
    files = {
        "a.c": "const int table[4] = {1, 2, 3, 4};\nint other(int);\n"
        "__attribute__((noinline)) int here(int n) { return table[n & 3] * 100; }\n"
        "int answer(int n, char *o) { (void)o; return here(n) + other(n); }\n",
        "b.c": "extern const int table[4];\nint other(int n) { return table[n & 3]; }\n",
    }
    project = Project(tmp_path, files)
    said = project.refusal({"a.c": ("{1, 2, 3, 4}", "{1, 2, 3, 5}")})
    assert "constant `table`" in said
    assert "other source files" in said


def test_main(tmp_path: Path) -> None:
    project = Project(tmp_path, {"a.c": SOURCE})
    said = project.refusal({"main.c": ("char line[100]", "char line[120]")})
    assert "`main`" in said
    assert "--skip main" in said


def test_functions_that_are_one(tmp_path: Path) -> None:
    source = (
        "int total;\n__attribute__((noinline)) int f(int n) { total += n; return total * 7; }\n"
        "__attribute__((noinline)) int g(int n) { total += n; return total * 7; }\n"
        "int answer(int n, char *o) { (void)o; return f(n) + g(n); }\n"
    )
    project = Project(tmp_path, {"a.c": source})
    body = "int f(int n) { total += n; return total *"
    changes = {"a.c": (f"{body} 7", f"{body} 8")}
    code, fields = project.command(changes)
    if code == 3:
        assert "one function in the target" in fields["reason"]
        return
    with project.running() as program:  # the compiler made one call the other
        program.apply()
        assert program.ask(5) == str(5 * 8 + 10 * 7)


@pytest.mark.skipif(shutil.which("ld.gold") is None, reason="needs ld.gold")
def test_functions_that_the_linker_made_one(tmp_path: Path) -> None:
    body = "int first(int n) { extern int total; total += n; return n * 3 + total % 7; }\n"
    files = {
        "a.c": f"int total;\n__attribute__((noinline)) {body}",
        "b.c": f"__attribute__((noinline)) {body.replace('first(', 'second(')}",
        "c.c": "int first(int), second(int);\n"
        "int answer(int n, char *o) { (void)o; return first(n) + second(n); }\n",
    }
    link = "-fuse-ld=gold -Wl,--icf=all,--build-id"
    project = Project(tmp_path, files, flags="-O2 -g -ffunction-sections", link=link)
    said = project.refusal({"a.c": ("n * 3", "n * 4")})
    assert "`first` is one function with `second`" in said
    assert "--icf=none" in said


@pytest.mark.parametrize(
    "change",
    [
        ("#include <time.h>", "#include <time.h>\n/* a comment */\n\n\n"),
        ("    (void)out;", "\t(void) out ;"),
        ("static int unused(void) { return 4; }", "static int unused(void)\n{\n    return 4;\n}"),
    ],
)
def test_nothing_changed(project: Project, change: tuple[str, str]) -> None:
    code, fields = project.command({"a.c": change})
    assert (code, fields["path"], fields["functions"]) == (0, None, [])
    assert set(fields["moved"]) <= {"checked", "answer"}
    if change[1].count("\n") > 1:
        assert set(fields["moved"]) == {"checked", "answer"}  # their asserts are further down


def test_a_number_that_is_no_line_is_a_change(tmp_path: Path) -> None:
    source = "int total;\nint answer(int n, char *o)\n{\n(void)o; total += 3;\nreturn n + 2;\n}\n"
    project = Project(tmp_path, {"a.c": source})
    built = project.build({"a.c": ("return n + 2", "return n + 5")})
    assert built["changed"] == ["answer"]


def test_the_same_bytes(project: Project) -> None:
    changes = {"a.c": ("checked(n) * 3", "checked(n) * 5")}
    first = project.build(changes)
    content = (project.directory / "fix.so").read_bytes()
    again = project.build(changes)
    assert first["compiled"] > again["compiled"] == 0
    assert (project.directory / "fix.so").read_bytes() == content
    shutil.rmtree(project.directory / "work")
    project.build(changes)
    assert (project.directory / "fix.so").read_bytes() == content
    assert not list(project.directory.glob("*.o"))


def test_the_source_is_left_alone(project: Project) -> None:
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in project.source.iterdir()}
    project.build({"a.c": ("* 3", "* 4")})
    project.build({"a.c": ("* 3", "* 5")})
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in project.source.iterdir()}
    assert after == before


def test_only_what_is_touched_is_compiled(tmp_path: Path) -> None:
    project = Project(tmp_path, CASES["header of many files"].files)
    built = project.build({"part3.c": ("n * factor()", "n * factor() + 1")})
    assert built["compiled"] == 3  # old, old as the program was made, new
    assert {f["source"] for f in built["functions"]} == {"part3.c"}


def test_what_includes_what_is_asked_again_when_the_source_is_another(tmp_path: Path) -> None:
    files = CASES["header of many files"].files
    project = Project(tmp_path, files)
    change = {"factor.h": ("return 3", "return 4")}
    project.build({"part3.c": ("n * factor()", "n * factor() + 1")})
    assert {f["source"] for f in project.build(change)["functions"]} == {
        name for name in files if name.startswith("part")
    }
    other = project.source / "part3.c"
    other.write_text(other.read_text().replace('"factor.h"', '"other.h"'))
    (project.source / "other.h").write_text("static inline int factor(void) { return 3; }\n")
    sources = {f["source"] for f in project.build(change)["functions"]}
    assert "part4.c" in sources
    assert "part3.c" not in sources


def test_what_it_is_for(project: Project) -> None:
    diff = project.diff({"a.c": ("* 3", "* 4")})
    diff.write_text("Description: mends CVE-2031-12345\n\n" + diff.read_text())
    code, fields = build(
        *("--source", project.source, "--diff", diff, "--target", project.program),
        *("--build-command", "make -s", "--work", project.directory / "work", "--name", "third"),
        *("--description", "four, not three", "-o", project.directory / "fix.so"),
    )
    assert (code, fields["cves"]) == (0, ["CVE-2031-12345"])
    code, shown = run("inspect", project.directory / "fix.so")
    assert code == 0
    assert (shown["patch"]["name"], shown["description"]) == ("third", "four, not three")
    facts = dict(shown["facts"])
    assert facts["cve"] == "CVE-2031-12345"
    assert len(facts["diff-sha256"]) == 64
    assert "gcc" in facts["compiler"]
    assert ["answer", "a.c: its code changed"] in shown["reasons"]


def test_a_running_process_as_target(project: Project) -> None:
    with project.running() as program:
        code, fields = build(
            *("--source", project.source, "--diff", project.diff({"a.c": ("* 3", "* 4")})),
            *("--target", program.pid, "--work", project.directory / "work"),
            *("-o", project.directory / "fix.so"),
        )
        assert code == 0, fields
        assert fields["check"] == {"status": "ok"}
        before = program.ask(5)
        program.apply()
        assert program.ask(5) != before


def test_a_running_process_that_is_not_what_its_file_is(project: Project) -> None:
    """The patch is made, and what the process would say to it is said at once."""
    with project.running() as program:
        listed = subprocess.run(["nm", project.program], capture_output=True, text=True, check=True)
        (offset,) = (int(row.split()[0], 16) for row in listed.stdout.splitlines()
                     if row.endswith(" answer"))  # fmt: skip
        base = next(m.start for m in maps(program.pid) if m.path == str(project.program))
        with open(f"/proc/{program.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(base + offset)
            memory.write(b"\xcc")  # as a debugger does for a breakpoint
        code, fields = build(
            *("--source", project.source, "--diff", project.diff({"a.c": ("* 3", "* 4")})),
            *("--target", program.pid, "--work", project.directory / "work"),
            *("-o", project.directory / "fix.so"),
        )
        assert code == 0, fields
        assert fields["check"]["status"] == "refused"
        assert "differs from its file" in fields["check"]["reason"]
        assert "breakpoint" in fields["warnings"][-1]


def test_other_flags(project: Project) -> None:
    code, fields = build(
        *("--source", project.source, "--diff", project.diff({"a.c": ("* 3", "* 4")})),
        *("--target", project.program, "--work", project.directory / "work"),
        *("--build-command", "make -s CFLAGS=-Os", "-o", project.directory / "fix.so"),
    )
    assert code == 3
    assert "is not what" in fields["reason"]
    assert "flags" in fields["hint"]


def test_another_compiler_than_the_program_was_made_with(project: Project) -> None:
    code, fields = build(
        *("--source", project.source, "--diff", project.diff({"a.c": ("* 3", "* 4")})),
        *("--target", project.program, "--work", project.directory / "work"),
        *("--build-command", "make -s CC=clang", "-o", project.directory / "fix.so"),
    )
    assert code == 3
    assert "another compiler" in fields["hint"]
    assert "clang" in fields["hint"]


def test_another_version_of_the_source(tmp_path: Path) -> None:
    project = Project(tmp_path, {"a.c": SOURCE})
    path = project.source / "a.c"
    path.write_text(path.read_text().replace("return n + items", "return n - items"))
    said = project.refusal({"a.c": ("* 3", "* 4")})
    assert "another version of the source" in said
    assert "checked" in said


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["has no unified diff"]),
        ("--- a/a.c\n+++ b/a.c\n@@ -1,3 +1,3 @@\n nothing\n-like\n+that\n is there\n",
         ["does not apply", "checking file a.c"]),
        ("--- a/gone.c\n+++ b/gone.c\n@@ -1 +1 @@\n-x\n+y\n", ["does not apply"]),
        ("diff --git a/x b/x\nGIT binary patch\n--- a/x\n+++ b/x\n", ["binary"]),
    ],
)  # fmt: skip
def test_bad_diffs(project: Project, text: str, names: list[str]) -> None:
    diff = project.directory / "bad.diff"
    diff.write_text(text)
    code, fields = build(
        *("--source", project.source, "--diff", diff, "--target", project.program),
        *("--work", project.directory / "work", "-o", project.directory / "fix.so"),
    )
    assert code == 3
    for name in names:
        assert name in fields["reason"]


def test_a_diff_that_is_there_already(project: Project) -> None:
    diff = project.diff({"a.c": ("* 3", "* 4")})
    path = project.source / "a.c"
    path.write_text(path.read_text().replace("* 3", "* 4"))
    code, fields = build(
        *("--source", project.source, "--diff", diff, "--target", project.program),
        *("--work", project.directory / "work", "-o", project.directory / "fix.so"),
    )
    assert (code, "has it already" in fields["hint"]) == (3, True)


def test_a_diff_that_does_not_compile(project: Project) -> None:
    code, fields = project.command({"a.c": ("* 3", "* three")})
    assert code == 3
    assert "a.c does not compile in the source with the diff" in fields["reason"]
    assert any("three" in line for line in fields["messages"])
    project.build({"a.c": ("* 3", "* 4")})  # and the next one does


def test_a_build_that_fails(project: Project) -> None:
    code, fields = project.command({"a.c": ("* 3", "* 4")}, "--build-command", "echo no; exit 9")
    assert code == 3
    assert "fails with 9" in fields["reason"]
    assert fields["messages"] == ["no"]


def test_a_build_that_compiles_nothing(project: Project) -> None:
    assert "compiled nothing" in project.refusal({"a.c": ("* 3", "* 4")}, "--build-command", "true")


def test_a_list_of_commands(project: Project) -> None:
    listed = project.source / "compile_commands.json"
    listed.write_text(
        f'[{{"directory": "{project.source}", "file": "a.c", '
        '"command": "gcc -O2 -g -Wall -c a.c -o a.o"}]'
    )
    code, fields = build(
        *("--source", project.source, "--diff", project.diff({"a.c": ("* 3", "* 4")})),
        *("--target", project.program, "--work", project.directory / "work"),
        *("-o", project.directory / "fix.so"),
    )
    assert code == 0, fields
    listed.write_text("{")
    code, fields = project.command({"a.c": ("* 3", "* 4")}, "--compile-commands", str(listed))
    assert code == 2 or "compile_commands" in fields["reason"]


@pytest.mark.parametrize("flags", ["-O2 -g", "-O2 -g -ffunction-sections -fdata-sections"])
@pytest.mark.parametrize("name", ["static local", "jump table", "pointers stay equal", "cold part"])
def test_two_builds(name: str, flags: str, tmp_path: Path) -> None:
    case = CASES[name]
    project = Project(tmp_path, case.files, flags=flags)
    fixed = tmp_path / "fixed"
    shutil.copytree(project.source, fixed)
    diff = project.diff(case.changes)
    with diff.open() as text:
        subprocess.run(["patch", "-s", "-p1", "-d", fixed], stdin=text, check=True)
    subprocess.run(["make", "-s", "-C", fixed], check=True)
    with project.running() as program:
        assert program.ask(case.question) == case.before
        code, fields = build(
            *("--old", project.objects, "--new", fixed, "--target", project.program),
            *("-o", tmp_path / "fix.so"),
        )
        if code == 3:  # functions that jump to each other can't be moved apart
            assert "-ffunction-sections" in fields["hint"]
            assert "-ffunction-sections" not in flags
            return
        assert code == 0, fields
        program.apply()
        assert program.ask(case.question) == case.after
        program.revert()


def test_c_that_was_written_by_hand(project: Project) -> None:
    source = project.directory / "fix.c"
    source.write_text(
        "#include <hotpatch.h>\n"
        "int checked(int n) { return 1000 * n; }\nHOTPATCH_REPLACE(checked);\n"
    )
    code, fields = build(source, "-o", project.directory / "fix.so")
    assert (code, [f["name"] for f in fields["functions"]]) == (0, ["checked"])
    with project.running() as program:
        program.apply()
        assert program.ask(5) == str(15000 + 3)
    source.write_text("#include <hotpatch.h>\nint checked(int n) { return m; }\n")
    code, fields = build(source, "-o", project.directory / "fix.so")
    assert code == 3


LIBRARY = """\
#include <stdio.h>
#include <string.h>
static int calls;
int exported = 5;
__thread int seen = 3;
static __attribute__((noinline)) int helper(int n)
{
    static int inner;
    inner++;
    return n * exported + inner;
}
int public_helper(int n) { return n + 1; }
int answer(int n, char *out)
{
    calls++;
    seen++;
    sprintf(out, "%d %d %d %d", helper(n), public_helper(n), calls, seen);
    return (int)strlen(out);
}
"""
LIBRARY_MAKEFILE = """\
prog: main.c libthing.so
\tgcc -O2 -g -o $@ main.c ./libthing.so
libthing.so: lib.c
\tgcc -O2 -g -fPIC -shared -Wl,-soname,./libthing.so -o $@ lib.c
"""


@pytest.mark.parametrize("stripped", [False, True])
def test_a_library(stripped: bool, tmp_path: Path) -> None:
    files = {"lib.c": LIBRARY, "Makefile": LIBRARY_MAKEFILE}
    project = Project(tmp_path, files)
    library = tmp_path / "libthing.so"
    shutil.copy(project.objects / "libthing.so", library)
    if stripped:
        subprocess.run(["strip", "--strip-unneeded", library], check=True)
    code, fields = build(
        *("--source", project.source, "--target", library, "--work", tmp_path / "work"),
        *("--diff", project.diff({"lib.c": ("n * exported", "10 * n * exported")})),
        *("-o", tmp_path / "fix.so"),
    )
    assert code == 0, fields
    assert {f["name"] for f in fields["functions"] if f["replaces"]} == {"helper"}
    with project.running(cwd=tmp_path) as program:
        assert program.ask(3) == "16 4 1 4"
        applied = program.apply()
        assert [f["module"] for f in applied["functions"]] == [str(library)]
        assert program.ask(3) == "152 4 2 5"
        program.revert()
        assert program.ask(3) == "18 4 3 6"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-o", "x.so"],
        ["--source", ".", "-o", "x.so", "--target", "1"],
        ["--old", ".", "-o", "x.so", "--target", "1"],
        ["fix.c", "--source", ".", "-o", "x.so"],
        ["--old", ".", "--new", ".", "--diff", "x", "-o", "x.so", "--target", "1"],
        ["fix.c", "-o", "x.so", "--jobs", "none"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    assert run("build", *arguments)[0] == 2

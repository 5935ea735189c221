# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches whose types are not the target's, each refused by a message that names the thing.

Target and patches are made of one header; a patch's own copy of it has a text replaced.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.build.project import MAIN, Running, run
from tests.support.compiled import INCLUDE, run_compiler

HEADER = """\
#include <stdbool.h>
#include <stdint.h>
enum color { RED, GREEN, BLUE };
union number { long whole; double real; };
struct point { int x, y; };
typedef int (*callback)(int, const char *);
typedef uint32_t ticks;
struct entry {
    struct entry *next;
    struct point place;
    char name[16];
    unsigned ready : 1, level : 3;
    enum color color;
    union number number;
    callback notify;
    short hits;
    int64_t seen;
    ticks age;
    bool fresh;
    struct { int low, high; } range;
    struct entry **index;
};
struct other { long a; struct entry *first; };
extern struct entry entries[4];
extern int limit;
extern long total;
extern const char *labels[3];
extern struct other *others;
int weigh(struct entry *entry, int factor);
long measure(int a, long b, const char *text);
void touch(struct point place);
double ratio(float part);
int many(const char *format, ...);
int answer(int n, char *out);
"""

TARGET = """\
#include "zoo.h"
struct entry entries[4];
int limit = 3;
long total;
const char *labels[3];
struct other *others;
static struct point corner;
__attribute__((noinline)) int weigh(struct entry *entry, int factor)
{
    return entry->hits * factor + limit;
}
__attribute__((noinline)) long measure(int a, long b, const char *text)
{
    total += a;
    return a + b + (text != 0);
}
__attribute__((noinline)) void touch(struct point place) { corner = place; total++; }
__attribute__((noinline)) double ratio(float part) { total++; return part * 2; }
__attribute__((noinline)) int many(const char *format, ...) { total++; return format[0]; }
__attribute__((noinline)) static int age(struct entry *entry) { return entry->age + (int)total; }
__attribute__((noinline)) int painted(struct entry *entry) { total++; return entry->color; }
int answer(int n, char *out)
{
    struct point p = {n, n};
    (void)out;
    touch(p);
    return weigh(&entries[n & 3], 2) + measure(n, 1, "x") + age(entries) + (int)ratio(n) + many("a")
        + painted(entries);
}
"""

# It uses all of it.
PATCH = """\
#include "zoo.h"
#include <hotpatch.h>
extern int painted(struct entry *entry);
int weigh(struct entry *entry, int factor)
{
    struct point p = {1, 2};
    union number number = entry->number;
    callback notify = entry->notify;
    touch(p);
    total += measure(limit, 2, labels[0]) + (long)ratio(1.5f) + many("%d", 3) + (long)number.whole;
    if (others && others->first == entry && notify)
        return notify(3, entry->name) + painted(entry);
    return entry->hits * factor + entries[1].age + entry->color + 100;
}
HOTPATCH_REPLACE(weigh);
"""


class Wrong(NamedTuple):
    """What is replaced in the patch's header, or in the patch, and words of the message."""

    old: str
    new: str
    words: tuple[str, ...]
    patch: tuple[str, str] | None = None


WRONG = {
    "member moved": Wrong("short hits;\n    int64_t seen;", "int64_t seen;\n    short hits;",
                          ("struct entry", "`hits` is at")),
    "member added": Wrong("short hits;", "int more; short hits;", ("struct entry", "`more`")),
    "member removed": Wrong("    short hits;\n", "", ("struct entry", "`hits`"),
                            ("entry->hits * factor", "factor")),
    "member narrowed": Wrong("int64_t seen;", "int32_t seen;", ("struct entry", "`seen`")),
    "member without its sign": Wrong("int64_t seen;", "uint64_t seen;", ("struct entry", "`seen`")),
    "two members swapped": Wrong("int x, y;", "int y, x;", ("struct point", "`x` is at 0")),
    "enumerators renumbered": Wrong("RED, GREEN, BLUE", "RED, BLUE, GREEN",
                                    ("enum color", "`GREEN` is 1 in the target, 2")),
    "enumerator of another value": Wrong("GREEN, BLUE", "GREEN = 7, BLUE", ("`GREEN` is 1",)),
    "bit-field wider": Wrong("level : 3", "level : 4", ("`level`", "bits 1 to 3")),
    "bit-field shifted": Wrong("ready : 1, level : 3", "spare : 1, ready : 1, level : 3",
                               ("`ready`", "bits 0 to 0", "bits 1 to 1")),
    "bit-field before": Wrong("unsigned ready : 1", "unsigned : 2, ready : 1", ("`ready`",)),
    "array shortened": Wrong("name[16]", "name[8]", ("`name` is `char [16]`", "`char [8]`")),
    "array lengthened": Wrong("name[16]", "name[24]", ("`name`",)),
    "union member": Wrong("double real;", "float real;", ("union number", "`real`")),
    "nested struct": Wrong("int low, high;", "int low, mid, high;", ("`range`", "`mid`")),
    "typedef to another type": Wrong("typedef uint32_t ticks", "typedef uint64_t ticks",
                                     ("ticks",)),
    "callback with other parameters": Wrong("(*callback)(int, const char *)",
                                            "(*callback)(int, int, const char *)",
                                            ("(int, const char *)", "(int, int, const char *)"),
                                            ("notify(3, entry", "notify(3, 4, entry")),
    "callback with another result": Wrong("typedef int (*callback)", "typedef long (*callback)",
                                          ("result", "callback")),
    "pointer to another type": Wrong("struct entry *first;", "struct point *first;",
                                     ("struct other", "`first`"),
                                     ("others->first == entry", "others->first")),
    "value for a pointer": Wrong("struct entry **index;", "struct entry *index[2];", ("`index`",)),
    "bool to int": Wrong("bool fresh;", "int fresh;", ("`fresh`",)),
    "variable of another type": Wrong("extern long total;", "extern int total;",
                                      ("variable `total`", "`long", "`int`")),
    "variable without its sign": Wrong("extern int limit;", "extern unsigned limit;",
                                       ("variable `limit`",)),
    "array of pointers": Wrong("extern const char *labels[3]", "extern const char *labels[5]",
                               ("variable `labels`", "[3]", "[5]")),
    "pointer or array": Wrong("extern struct other *others", "extern struct other others[1]",
                              ("variable `others`",)),
    "callee with another parameter": Wrong("measure(int a, long b", "measure(int a, int b",
                                           ("parameter 2 of function `measure`",)),
    "callee with a parameter less": Wrong("measure(int a, long b, const char *text)",
                                          "measure(int a, long b)",
                                          ("function `measure` takes",),
                                          ("measure(limit, 2, labels[0])", "measure(limit, 2)")),
    "callee with another result": Wrong("double ratio", "int ratio",
                                        ("result of function `ratio`",)),
    "callee with a wider parameter": Wrong("ratio(float part)", "ratio(double part)",
                                           ("parameter 1 of function `ratio`",)),
    "callee that is not variadic": Wrong("many(const char *format, ...)",
                                         "many(const char *format, int n)",
                                         ("function `many` takes", "...")),
    "replacement with a parameter more": Wrong("weigh(struct entry *entry, int factor)",
                                               "weigh(struct entry *entry, int factor, int more)",
                                               ("function `weigh` takes",),
                                               ("struct entry *entry, int factor)",
                                                "struct entry *entry, int factor, int more)")),
    "replacement with another result": Wrong("int weigh(", "long weigh(",
                                             ("result of function `weigh`",),
                                             ("int weigh(", "long weigh(")),
}  # fmt: skip

CHANGED = """\
struct entry_old { struct entry_old *next; struct point place; char name[16];
    unsigned ready : 1, level : 3; enum color color; union number number; callback notify;
    short hits; int64_t seen; ticks age; bool fresh; struct { int low, high; } range;
    struct entry_old **index; };
HOTPATCH_TYPE(struct entry, struct entry_old, struct entry);
"""
EVERY_USER = """\
HOTPATCH_UNAFFECTED_STATIC("target.c", age);
HOTPATCH_UNAFFECTED(painted);
HOTPATCH_UNAFFECTED(answer);
"""
TRANSFER = """\
static int move(void) { return 0; }
HOTPATCH_TRANSFER(move);
"""
LOOKS = """\
static int look(void) { struct entry_old *old = (void *)entries; return old->hits == 12345; }
HOTPATCH_CHECK(look);
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    directory = tmp_path_factory.mktemp("zoo")
    (directory / "zoo.h").write_text(HEADER)
    (directory / "target.c").write_text(TARGET)
    (directory / "main.c").write_text(MAIN)
    command = ["gcc", "-O2", "-g", "-o", "zoo", "target.c", "main.c"]
    subprocess.run(command, cwd=directory, check=True)
    return directory / "zoo"


@pytest.fixture
def program(target: Path) -> Iterator[Running]:
    """A process of it."""
    process = subprocess.Popen(
        [target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    started = Running(process, target)
    try:
        assert started.line() == "READY"
        yield started
    finally:
        process.kill()
        process.wait()


def patch(directory: Path, header: str, source: str, *flags: str) -> Path:
    """Compile a patch."""
    (directory / "zoo.h").write_text(header)
    (directory / "patch.c").write_text(source)
    made = directory / "patch.so"
    options = ("-shared", "-fPIC", "-O2", *(flags or ("-g",)))
    run_compiler("gcc", "-I", INCLUDE, *options, directory / "patch.c", "-o", made)
    return made


def test_there_are_thirty() -> None:
    assert len(WRONG) >= 30


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_patch(name: str, program: Running, tmp_path: Path) -> None:
    wrong = WRONG[name]
    assert HEADER.count(wrong.old) == 1
    source = PATCH
    if wrong.patch:
        assert PATCH.count(wrong.patch[0]) == 1
        source = PATCH.replace(*wrong.patch)
    before = program.ask(5)
    code, fields = run(
        "apply", program.pid, patch(tmp_path, HEADER.replace(wrong.old, wrong.new), source)
    )
    assert code == 3, fields
    said = " ".join(fields["problems"])
    for word in wrong.words:
        assert word in said
    assert fields["reason"].startswith("patch and target differ in their types")
    assert int(program.ask(5)) > int(before) - 100  # and it answers as before: nothing was put in
    assert run("list", program.pid)[1]["patches"] == []


def test_the_right_patch(program: Running, tmp_path: Path) -> None:
    made = patch(tmp_path, HEADER, PATCH)
    code, plan = run("check", "--require-types", program.pid, made)
    assert code == 0
    (verdict,) = [v for v in plan["verdicts"] if v["check"] == "types"]
    assert verdict["verdict"] == "ok"
    assert run("apply", "--require-types", program.pid, made)[0] == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int x, y;", "int left, top;"),
        ("callback notify;", "int (*notify)(int, const char *);"),
        ("measure(int a, long b, const char *text)", "measure(int a, long b, char *const text)"),
        ("GREEN, BLUE }", "GREEN, BLUE, GRAY }"),
        ("int64_t seen;", "long seen;"),
        ("struct entry *next;", "void *next;"),
    ],
)
def test_what_is_no_difference(old: str, new: str, program: Running, tmp_path: Path) -> None:
    header = HEADER.replace(old, new)
    assert header != HEADER
    made = patch(tmp_path, header, PATCH)
    assert run("check", "--require-types", program.pid, made)[0] == 0


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        (CHANGED, ["nothing carries the objects over", "HOTPATCH_TRANSFER"]),
        (CHANGED + TRANSFER, ["old code would go on", "age (target.c)", "painted (target.c)"]),
        (CHANGED + TRANSFER + "HOTPATCH_UNAFFECTED(painted);\nHOTPATCH_UNAFFECTED(answer);\n",
         ["age (target.c)"]),
        ((CHANGED + TRANSFER + LOOKS + EVERY_USER).replace("short hits; int64", "int hits; int64"),
         ["struct entry", "`hits`"]),
    ],
)  # fmt: skip
def test_what_a_changed_type_needs(
    declared: str, words: list[str], program: Running, tmp_path: Path
) -> None:
    header = HEADER.replace("short hits;", "int hits; int more;")
    code, fields = run("check", program.pid, patch(tmp_path, header, PATCH + declared))
    assert code == 3
    for word in words:
        assert word in " ".join(fields["problems"])


def test_a_changed_type_with_all_of_that(program: Running, tmp_path: Path) -> None:
    header = HEADER.replace("int64_t seen;", "int64_t seen, last;")
    source = PATCH + CHANGED + TRANSFER + LOOKS + EVERY_USER
    code, fields = run("check", program.pid, patch(tmp_path, header, source))
    assert code == 0, fields


@pytest.mark.parametrize("stripped", ["patch", "target"])
def test_without_debug_information(
    stripped: str, target: Path, program: Running, tmp_path: Path
) -> None:
    made = patch(tmp_path, HEADER.replace("short hits;", "long hits;"), PATCH + TRANSFER, "-g0")
    if stripped == "target":
        made = patch(tmp_path, HEADER, PATCH + TRANSFER)
        bare = tmp_path / "bare"
        subprocess.run(["strip", "--strip-debug", "-o", bare, target], check=True)
        process = subprocess.Popen([bare], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            check_unknown(Running(process, bare), made)
        finally:
            process.kill()
            process.wait()
        return
    check_unknown(program, made, ready=True)


def check_unknown(program: Running, made: Path, ready: bool = False) -> None:
    """Expect a patch to be applied with a warning, and refused where types are required."""
    assert ready or program.line() == "READY"
    code, fields = run("check", "--require-types", program.pid, made)
    assert code == 3
    assert "no debug information" in fields["reason"]
    code, plan = run("check", program.pid, made)
    assert code == 0, plan
    assert [v["verdict"] for v in plan["verdicts"] if v["check"] == "types"] == ["unknown"]
    assert any("types were not checked" in warning for warning in plan["warnings"])

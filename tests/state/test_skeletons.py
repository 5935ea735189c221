# SPDX-License-Identifier: GPL-2.0-or-later
"""Skeletons: they compile as they are, and carry the objects of a running program over and back."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.project import MAIN, Running, run
from tests.support.compiled import INCLUDE

OLD = """\
enum kind { SMALL, LARGE };
struct point { int x; short y; };
struct peer { struct peer *next, *before; long number; };
struct entry {
    struct entry *next;
    int key;
    long value;
    unsigned ready : 1, level : 4, rest : 9;
    enum kind kind;
    char name[8];
    struct point place;
    struct peer *peer;
    double weight;
};
"""
NEW = """\
enum kind { SMALL, LARGE };
struct point { int x; short y; };
struct peer { long number, hits; struct peer *before, *next; };
struct entry {
    long value;
    int key;
    char name[8];
    long seen;
    unsigned extra : 3, level : 6, ready : 1;
    struct peer *peer;
    double weight;
    struct entry *next;
    enum kind kind;
    struct point place;
};
"""
STATE = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "types.h"
struct bucket { struct entry *first; int length; };
struct owner { struct owner *next; struct entry *entries[2]; const char *name; };
struct entry *table[8];
static struct entry *newest;
struct bucket buckets[3];
struct owner *owners;
struct peer *ring;
void *cookie;
"""
FILL = """\
static struct entry *make(int key)
{
    struct entry *e = calloc(1, sizeof *e);
    e->key = key; e->value = 1000 + key; e->ready = key & 1; e->level = key & 15;
    e->kind = key & 1 ? LARGE : SMALL; snprintf(e->name, sizeof e->name, "n%d", key);
    e->place.x = key; e->place.y = -key; e->weight = key / 2.0;
    struct peer *p = calloc(1, sizeof *p);
    p->number = key;
    p->next = ring ? ring : p; p->before = ring ? ring->before : p;
    p->next->before = p; p->before->next = p;
    ring = p; e->peer = p;
    return e;
}
static void fill(void)
{
    for (int i = 0; i < 100; i++) {
        struct entry *e = make(i);
        e->next = table[i % 8]; table[i % 8] = e; newest = e;
    }
    for (int i = 0; i < 3; i++) { buckets[i].first = make(200 + i); buckets[i].length = 1; }
    for (int i = 0; i < 4; i++) {
        struct owner *o = calloc(1, sizeof *o);
        o->next = owners; o->entries[0] = table[i]; o->entries[1] = make(300 + i);
        o->name = "owner"; owners = o;
    }
}
"""
ANSWER = """\
static void add(char *out, struct entry *e)
{
    sprintf(out + strlen(out), " %d:%ld:%d:%d:%d:%s:%d:%d:%ld:%g", e->key, e->value, (int)e->ready,
            (int)e->level, (int)e->kind, e->name, e->place.x, e->place.y, e->peer->number,
            e->weight);
}
int answer(int n, char *out)
{
    struct peer *p = ring;
    struct owner *o = owners;
    long around = 0;
    int steps = 0, same = 0;
    if (n < 0) { sprintf(out, "%zu %zu", sizeof(struct entry), sizeof(struct peer)); return 0; }
    for (struct entry *e = table[n % 8]; e; e = e->next)
        if (e->key == n) add(out, e);
    add(out, newest); add(out, buckets[n % 3].first);
    for (; o; o = o->next) {
        add(out, o->entries[1]);
        for (int i = 0; i < 8; i++) same += o->entries[0] == table[i];
    }
    do { around += p->number; steps += p->next->before == p; p = p->next; } while (p != ring);
    sprintf(out + strlen(out), " %ld %d %d", around, steps, same);
    return 0;
}
"""


@pytest.fixture
def builds(tmp_path: Path) -> tuple[Path, Path]:
    """A program in two versions."""
    for name, types in (("old", OLD), ("new", NEW)):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "types.h").write_text(types)
        text = STATE + FILL + ANSWER
        text += "__attribute__((constructor)) static void start(void) { fill(); }\n"
        (directory / "state.c").write_text(text)
        (directory / "main.c").write_text(MAIN)
        command = ["gcc", "-O2", "-g", "-w", "state.c", "main.c", "-o", "program"]
        subprocess.run(command, cwd=directory, check=True)
    return tmp_path / "old" / "program", tmp_path / "new" / "program"


@pytest.fixture
def program(builds: tuple[Path, Path]) -> Iterator[Running]:
    """A process of the old version."""
    process = subprocess.Popen(
        [builds[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    started = Running(process, builds[0].parent.parent / "patch.so")
    try:
        assert started.line() == "READY"
        yield started
    finally:
        process.kill()
        process.wait()


def compile_patch(directory: Path, *sources: Path, compiler: str = "gcc") -> Path:
    """Compile a patch, which may not bring any warning."""
    out = directory / "patch.so"
    flags = ("-shared", "-fPIC", "-O2", "-g", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, "-I", INCLUDE, *flags, *sources, "-o", out], check=True)
    return out


def test_over_and_back(builds: tuple[Path, Path], program: Running, tmp_path: Path) -> None:
    """The skeleton is used as it is; the new code is that of the new version."""
    code, fields = run("transform", *builds, "-o", tmp_path / "skeleton.c")
    assert code == 0
    counts = {t["type"]: (t["copied"], t["initialised"], t["left"]) for t in fields["types"]}
    assert counts == {"struct entry": (10, 2, 0), "struct peer": (3, 1, 0)}
    (tmp_path / "types.h").write_text(NEW)
    declared = STATE.replace("struct entry *table[8];", "extern struct entry *table[8];")
    declared = declared.replace("static struct entry *newest;", "").replace("void *cookie;\n", "")
    for name in ("struct bucket buckets", "struct owner *owners", "struct peer *ring"):
        declared = declared.replace(f"{name}", f"extern {name}", 1)
    (tmp_path / "new_code.c").write_text(
        declared
        + "#include <hotpatch.h>\n"
        + 'HOTPATCH_EXTERN_STATIC_DATA("state.c", struct entry *, newest);\n'
        + ANSWER
        + 'HOTPATCH_REPLACE(answer);\nHOTPATCH_UNAFFECTED_STATIC("state.c", start);\n'
        + 'HOTPATCH_UNAFFECTED_STATIC("state.c", make);\n'
        + 'HOTPATCH_UNAFFECTED_STATIC("state.c", add);\n'
    )
    patch = compile_patch(tmp_path, tmp_path / "skeleton.c", tmp_path / "new_code.c")
    questions = [*range(0, 100, 7), 99]
    before = [program.ask(n) for n in questions]
    sizes = program.ask(-1)
    for _ in range(2):
        code, applied = run("apply", "--require-types", program.pid, patch)
        assert code == 0, applied
        assert program.ask(-1) != sizes
        assert [program.ask(n) for n in questions] == before
        code, reverted = run("revert", program.pid)
        assert code == 0, reverted
        assert program.ask(-1) == sizes
        assert [program.ask(n) for n in questions] == before


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_random_structs(compiler: str, tmp_path: Path) -> None:
    """Old and new versions of structs with members of all kinds: what is written compiles."""
    chance = random.Random(7)
    kinds = ["char", "short", "int", "long", "float", "double", "void *", "unsigned char",
             "struct s0 *", "union u", "enum e", "char [5]", "struct s1 *[2]", "_Bool",
             "long double", "int (*)(int)", "struct small"]  # fmt: skip
    versions = []
    for _ in range(2):
        text = "union u { long a; char b[3]; }; enum e { A, B }; struct small { char a; int b; };\n"
        for number in range(30):
            rows = []
            for member in chance.sample(range(12), chance.randint(2, 10)):
                kind = chance.choice(kinds)
                name = f"m{member}"
                if kind == "int" and chance.random() < 0.5:
                    rows.append(f"int {name} : {chance.randint(1, 20)};")
                elif "(*)" in kind:
                    rows.append(kind.replace("(*)", f"(*{name})") + ";")
                else:
                    base, _, counts = kind.partition("[")
                    rows.append(f"{base} {name}{'[' + counts if counts else ''};")
            text += f"struct s{number} {{ {' '.join(rows)} }} *g{number}, *a{number}[3];\n"
        versions.append(text + "int main(void) { return 0; }\n")
    for name, text in zip(("old", "new"), versions, strict=True):
        (tmp_path / f"{name}.c").write_text(text)
        command = [compiler, "-g", "-c", f"{name}.c", "-o", f"{name}.o"]
        subprocess.run(command, cwd=tmp_path, check=True)
    objects = tmp_path / "old.o", tmp_path / "new.o"
    code, fields = run("transform", *objects, "-o", tmp_path / "skeleton.c")
    assert code == 0, fields
    assert len(fields["types"]) == 30
    for other in ("gcc", "clang"):
        compile_patch(tmp_path, tmp_path / "skeleton.c", compiler=other)
    text = (tmp_path / "skeleton.c").read_text()
    assert text.count("HOTPATCH: decide") >= sum(t["left"] for t in fields["types"])


def test_nothing_changed(builds: tuple[Path, Path]) -> None:
    code, fields = run("transform", builds[0], builds[0])
    assert (code, fields["types"]) == (0, [])


def test_one_type(builds: tuple[Path, Path], tmp_path: Path) -> None:
    code, fields = run("transform", "--type", "struct peer", *builds, "-o", tmp_path / "skeleton.c")
    assert (code, [t["type"] for t in fields["types"]]) == (0, ["struct peer"])
    compile_patch(tmp_path, tmp_path / "skeleton.c")
    code, fields = run("transform", "--type", "struct owner", *builds)
    assert code == 3
    assert "struct owner" in fields["reason"]


def test_what_can_not_be_found_is_listed(tmp_path: Path) -> None:
    for name, more in (("old", ""), ("new", "int more;")):
        (tmp_path / f"{name}.c").write_text(
            f"struct item {{ int a; {more} void *any; union {{ int i; struct item *p; }} u; }};\n"
            "struct item **many; struct item one; struct item *first;\n"
            f"int limit[{3 + len(more)}];\n"
        )
        subprocess.run(["gcc", "-g", "-c", f"{name}.c"], cwd=tmp_path, check=True)
    code, fields = run(
        "transform", tmp_path / "old.o", tmp_path / "new.o", "-o", tmp_path / "skeleton.c"
    )
    assert code == 0
    listed = " | ".join(fields["listed"])
    for word in ("`any` is a void *", "`u` is a union", "`many`", "`one`", "`limit`"):
        assert word in listed
    assert [root.split()[0] for root in fields["roots"]] == ["first"]
    assert "`many`" in (tmp_path / "skeleton.c").read_text()


def test_bad_input(builds: tuple[Path, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["strip", "-o", bare, builds[0]], check=True)
    damaged = tmp_path / "damaged"
    shutil.copy(builds[0], damaged)
    content = bytearray(damaged.read_bytes())
    content[:4] = b"none"
    damaged.write_bytes(content)
    for path, word in ((bare, "no debug information"), (damaged, "not an ELF file"),
                       (tmp_path / "missing", "can't be read")):  # fmt: skip
        code, fields = run("transform", path, builds[1])
        assert code == 3, fields
        assert word in fields["reason"]
    assert run("transform", builds[0])[0] == 2
    assert json.dumps(run("transform", *builds)[1])

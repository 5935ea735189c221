# SPDX-License-Identifier: GPL-2.0-or-later
"""A diff that changes a struct of which the program has objects, with what carries them over."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.build.project import Project, build, run

STORE_H = """\
struct entry { int key; int value; struct entry *next; };
extern struct entry *table[8];
struct entry *find(int key);
void add(int key);
"""
STORE_C = """\
#include <stdlib.h>
#include "store.h"
struct entry *table[8];
struct entry *find(int key)
{
    struct entry *e = table[key & 7];
    while (e && e->key != key)
        e = e->next;
    return e;
}
void add(int key)
{
    struct entry *e = find(key);
    if (!e) {
        e = calloc(1, sizeof(*e));
        e->key = key;
        e->next = table[key & 7];
        table[key & 7] = e;
    }
    e->value++;
}
"""
ANSWER_C = """\
#include "store.h"
int answer(int n, char *out)
{
    (void)out;
    add(n);
    return find(n)->value;
}
"""
CHANGES = {
    "store.h": ("int key; int value;", "int key; long asked; int value;"),
    "store.c": ("    e->value++;", "    e->value++;\n    e->asked += 100;"),
    "answer.c": ("return find(n)->value", "return find(n)->value + (int)find(n)->asked"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The program."""
    files = {"store.h": STORE_H, "store.c": STORE_C, "answer.c": ANSWER_C}
    return Project(tmp_path_factory.mktemp("add"), files)


@pytest.fixture(autouse=True)
def _nothing_built(project: Project) -> None:
    (project.directory / "fix.so").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def carry(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `hotpatch transform` writes for the diff, as it is."""
    new = tmp_path_factory.mktemp("new") / "source"
    subprocess.run(["cp", "-a", project.source, new], check=True)
    diff = project.diff(CHANGES)
    subprocess.run(["patch", "-s", "-p1", "-d", new, "-i", diff], check=True)
    subprocess.run(["make", "-s", "-C", new], check=True)
    written = new.with_name("carry.c")
    code, fields = run("transform", project.program, new / "prog", "-o", written)
    assert code == 0, fields
    return written


def test_objects_are_carried_over_and_back(project: Project, carry: Path) -> None:
    said = project.refusal(CHANGES)
    assert "--add" in said
    built = project.build(CHANGES, "--add", str(carry))
    assert {"add", "find", "answer"} >= {f["name"] for f in built["functions"] if f["replaces"]}
    kinds = {f["kind"] for f in built["functions"] if f["source"] == "carry.c"}
    assert kinds == {"transfer", "reverse"}
    with project.running() as program:
        for number in range(40):
            assert program.ask(number) == "1"
        program.apply()
        for number in range(44):
            assert program.ask(number) == str(102 if number < 40 else 101)
        program.revert()
        for number in range(44):
            assert program.ask(number) == str(3 if number < 40 else 2)


def test_a_transfer_for_another_struct(project: Project, carry: Path, tmp_path: Path) -> None:
    """The skeleton of an older version of the diff, or of another program."""
    for members, others, which in (
        ("int64_t asked;", "int32_t asked, more;", "struct entry_new` is not `struct entry` of"),
        ("int32_t key;", "uint32_t key;", "struct entry_old` is not `struct entry` of"),
    ):
        other = tmp_path / "carry.c"
        other.write_text(carry.read_text().replace(members, others, 1))
        said = project.refusal(CHANGES, "--add", str(other))
        assert which in said
        assert members.split()[1].rstrip(";") in said
        assert "hotpatch transform" in said


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("int broken(", ["does not compile"]),
        ("#include <hotpatch.h>\nstruct entry { int key; };\n"
         "HOTPATCH_TYPE(struct entry, struct entry, struct entry);\n",
         ["nothing carries the objects over", "HOTPATCH_TRANSFER"]),
    ],
)  # fmt: skip
def test_what_cannot_come_with_it(
    project: Project, text: str, names: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "part.c"
    source.write_text(text)
    said = project.refusal(CHANGES, "--add", str(source))
    for name in names:
        assert name in said


def test_hand_written_c_needs_none(project: Project, tmp_path: Path) -> None:
    code, _ = build("fix.c", "--add", "more.c", "-o", tmp_path / "fix.so")
    assert code == 2

# SPDX-License-Identifier: GPL-2.0-or-later
"""Thread-local variables of every model, as built patches reach them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.build.project import Project, build

LIBRARY = """\
static __thread int first = 1, second = 20;
static __thread char many[64];
__thread int seen = 3;
__thread int hidden __attribute__((visibility("hidden"))) = 5;
#define OUT __attribute__((noinline, noclone)) static
OUT int one(int n) { first += 1 * n; return first; }
OUT int *where(void) { return &second; }
OUT int two(int n) { *where() += 1 * n + 0; many[n & 63]++; return 10 * second + first; }
int thing(int n)
{
    seen += 1;
    hidden += 1 + 0;
    return one(n) + two(n) + 100 * many[n & 63] + 1000 * seen + 10000 * hidden;
}
"""
CHANGES = (
    ("first += 1 * n", "first += 2 * n"),
    ("+= 1 * n + 0", "+= 2 * n"),
    ("return &second", "many[0]++; return &second"),
    ("seen += 1", "seen += 2"),
    ("hidden += 1 + 0", "hidden += 2"),
)
CALLER = """\
#include <pthread.h>
extern int thing(int n);
static void *other(void *n) { return (void *)(long)thing((int)(long)n); }
int answer(int n, char *out)
{
    pthread_t thread;
    void *result;
    (void)out;
    if (n < 100)
        return thing(n);
    pthread_create(&thread, 0, other, (void *)(long)(n - 100));
    pthread_join(thread, &result);
    return (int)(long)result;
}
"""
OPENER = """\
#include <dlfcn.h>
int thing(int n)
{
    static int (*found)(int);
    if (!found)
        found = (int (*)(int))dlsym(dlopen("./libthing.so", RTLD_NOW), "thing");
    return found(n);
}
"""
MAKEFILE = """\
prog: main.c caller.c {also} libthing.so
\tgcc -O2 -g -pthread -o $@ main.c caller.c {also} {link}
libthing.so: lib.c
\t{compiler} -O2 -g -fPIC {flags} -shared -Wl,-soname,./libthing.so -o $@ lib.c
"""


class Model:
    """The variables of one thread, and what the library makes of them."""

    def __init__(self) -> None:
        """Begin as a new thread does."""
        self.first, self.second, self.seen, self.hidden = 1, 20, 3, 5
        self.many = [0] * 64

    def thing(self, n: int, patched: int) -> int:
        """Do what the function does."""
        self.seen += 1 + patched
        self.hidden += 1 + patched
        self.first += (1 + patched) * n
        self.many[0] += patched
        self.second += (1 + patched) * n
        self.many[n] += 1
        total = self.first + 10 * self.second + self.first
        return total + 100 * self.many[n] + 1000 * self.seen + 10000 * self.hidden


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize(
    ("compiler", "flags", "how"),
    [
        ("gcc", "", "linked"),
        ("gcc", "-fno-plt", "linked"),
        ("gcc", "-mtls-dialect=gnu2", "linked"),
        ("gcc", "-ftls-model=initial-exec", "linked"),
        ("clang", "", "linked"),
        ("gcc", "", "opened"),
        ("gcc", "", "program"),
        ("gcc", "-mtls-dialect=gnu2", "program"),
    ],
)
def test_variables(compiler: str, flags: str, how: str, stripped: bool, tmp_path: Path) -> None:
    files = {"lib.c": LIBRARY, "caller.c": CALLER}
    if how == "program":
        project = Project(tmp_path, files, flags=f"-O2 -g -fPIC {flags}", link="-pthread")
        target = project.program
    else:
        also = "open.c" if how == "opened" else ""
        files |= {"open.c": OPENER} if also else {}
        link = "" if also else "./libthing.so"
        makefile = MAKEFILE.format(compiler=compiler, flags=flags, also=also, link=link)
        project = Project(tmp_path, {**files, "Makefile": makefile})
        target = tmp_path / "libthing.so"
        shutil.copy(project.objects / "libthing.so", target)
    if stripped:
        subprocess.run(["strip", "--strip-unneeded", target], check=True)
    text = LIBRARY
    for old, new in CHANGES:
        assert text.count(old) == 1
        text = text.replace(old, new)
    code, fields = build(
        *("--source", project.source, "--target", target, "--work", tmp_path / "work"),
        *("--diff", project.diff({"lib.c": (LIBRARY, text)}), "-o", tmp_path / "fix.so"),
    )
    assert code == 0, fields
    replaced = {f["name"] for f in fields["functions"] if f["replaces"]}
    assert replaced >= {"one", "two", "thing"}
    with project.running(cwd=tmp_path) as program:
        main = Model()
        assert program.ask(7) == str(main.thing(7, 0))
        program.apply()
        assert program.ask(7) == str(main.thing(7, 1))
        assert program.ask(109) == str(Model().thing(9, 1))
        program.revert()
        assert program.ask(7) == str(main.thing(7, 0))
        assert program.ask(109) == str(Model().thing(9, 0))

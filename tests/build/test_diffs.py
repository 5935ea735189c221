# SPDX-License-Identifier: GPL-2.0-or-later
"""Diffs of every kind: the right patch, on a running program, or the right refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.build.project import Project

SIMPLE = "int total;\nint answer(int n, char *out) { (void)out; total += n; return n * 3; }\n"


class Case(NamedTuple):
    """Sources, a diff, and the answers to a question before, with and after the patch."""

    files: dict[str, str]
    changes: dict[str, tuple[str, str] | str]
    before: str
    after: str
    replaced: set[str]
    question: int = 5
    flags: str = "-O2 -g -Wall"
    compiler: str = "gcc"
    link: str = ""
    options: tuple[str, ...] = ()


CASES = {
    "function": Case({"a.c": SIMPLE}, {"a.c": ("* 3", "* 4")}, "15", "20", {"answer"}),
    "header of many files": Case(
        {
            "factor.h": "static inline int factor(void) { return 3; }\n",
            "a.c": "".join(f"int part_{i}(int);\n" for i in range(30))
            + "int answer(int n, char *o) { (void)o; return "
            + " + ".join(f"part_{i}(n)" for i in range(30))
            + "; }\n",
            **{
                f"part{i}.c": '#include "factor.h"\n'
                f"int part_{i}(int n) {{ return n * factor(); }}\n"
                for i in range(30)
            },
        },
        {"factor.h": ("return 3", "return 4")},
        "450",
        "600",
        {f"part_{i}" for i in range(30)},
    ),
    "macro": Case(
        {
            "limit.h": "#define LIMIT 10\n",
            "a.c": '#include "limit.h"\n'
            "int answer(int n, char *o) { (void)o; return n > LIMIT ? LIMIT : n; }\n",
        },
        {"limit.h": ("10", "20")},
        "10",
        "15",
        {"answer"},
        question=15,
    ),
    "inlined in callers": Case(
        {
            "a.c": "static int twice(int n) { return n * 2; }\n"
            "int other(int n) { return twice(n) + 1; }\n"
            "int answer(int n, char *o) { (void)o; return twice(n) + other(n); }\n"
        },
        {"a.c": ("n * 2", "n * 20")},
        "21",
        "201",
        {"answer", "other"},
    ),
    "constant table": Case(
        {
            "a.c": "static const int table[8] = {1, 2, 3, 4, 5, 6, 7, 8};\n"
            "int answer(int n, char *o) { (void)o; return table[n & 7]; }\n"
        },
        {"a.c": ("5, 6", "5, 66")},
        "6",
        "66",
        {"answer"},
    ),
    "jump table": Case(
        {
            "a.c": "extern int puts(const char *);\n__attribute__((noinline)) int f(int n) {\n"
            "switch (n) { case 0: return n + 7; case 1: return n * n; case 2: puts(\"two\");\n"
            "return 4; case 3: return n << 4; case 4: return n ^ 77; case 5: return -n; }\n"
            "return 0; }\nint answer(int n, char *o) { (void)o; return f(n); }\n"
        },
        {"a.c": ("return -n;", "return 100 - n; case 6: return 61;")},
        "-5",
        "95",
        {"f"},
    ),
    "variadic": Case(
        {
            "a.c": "#include <stdarg.h>\n__attribute__((noinline)) int sum(int n, ...) {\n"
            "va_list l; int s = 0; va_start(l, n); while (n--) s += va_arg(l, int);\n"
            "va_end(l); return s; }\n"
            "int answer(int n, char *o) { (void)o; return sum(3, n, n, n); }\n"
        },
        {"a.c": ("s += va_arg(l, int)", "s += 10 * va_arg(l, int)")},
        "15",
        "150",
        {"sum"},
    ),
    "static local": Case(
        {
            "a.c": "__attribute__((noinline)) int next(void)\n"
            "{ static int calls; return ++calls; }\n"
            "int answer(int n, char *o) { (void)o; return 100 * n + next(); }\n"
        },
        {"a.c": ("return ++calls", "calls += 1; return calls * 2")},
        "501",
        "504",
        {"next"},
    ),
    "static local beside a new one": Case(
        {
            "a.c": "__attribute__((noinline)) int f(void)\n"
            "{ static int calls = 3; return ++calls; }\n"
            "__attribute__((noinline)) int g(void) { static int calls = 8; return ++calls; }\n"
            "int answer(int n, char *o) { (void)o; return 1000 * n + 100 * f() + g(); }\n"
        },
        {
            "a.c": (
                "__attribute__((noinline)) int g(void) {",
                "static __attribute__((noinline)) int h(void) { static int calls = 50; "
                "return ++calls; }\n__attribute__((noinline)) int g(void) { if (h() < 5) return 0;",
            )
        },
        "5409",
        "5510",
        {"g"},
    ),
    "cloned for a constant": Case(
        {
            "a.c": "static __attribute__((noinline)) int scale(int n, int by) {\n"
            "for (int i = 0; i < 3; i++) n = n * by + i; return n; }\n"
            "int other(int n) { return scale(n, 7); }\n"
            "int answer(int n, char *o) { (void)o; return scale(n, 7) + other(1); }\n"
        },
        {"a.c": ("n * by + i", "n * by + i + 1")},
        "2076",
        "2190",
        set(),
        flags="-O2 -g -fno-inline",
    ),
    "cold part": Case(
        {
            "a.c": "#include <stdio.h>\nextern void abort(void);\n"
            "__attribute__((cold, noinline)) void fail(const char *w) { puts(w); }\n"
            "__attribute__((noinline)) int f(int n, char *o) { if (__builtin_expect(n == 3, 0)) {\n"
            'fail("three"); sprintf(o, "cold %d", n); return 0; } return n * 2; }\n'
            "int answer(int n, char *o) { return f(n, o); }\n"
        },
        {"a.c": ("n * 2", "n * 3")},
        "10",
        "15",
        {"f"},
    ),
    "new function, variable and string": Case(
        {"a.c": "#include <stdio.h>\n" + SIMPLE},
        {
            "a.c": (
                "int answer(int n, char *out) { (void)out; total += n; return n * 3; }",
                "static int calls = 40;\n"
                "static __attribute__((noinline)) int count(void) { return ++calls; }\n"
                'int answer(int n, char *out) { sprintf(out, "new %d %d", n, count()); return 0; }',
            )
        },
        "15",
        "new 5 41",
        {"answer"},
    ),
    "pointers stay equal": Case(
        {
            "a.c": "__attribute__((noinline)) int handler(int n) { return n * 3; }\n"
            "int (*current)(int) = handler;\n"
            "int answer(int n, char *o)\n"
            "{ (void)o; return current(n) + 1000 * (current == handler); }\n"
        },
        {"a.c": ("{ return n * 3; }", "{ return n * 4; } ")},
        "1015",
        "1020",
        {"handler"},
    ),
    "same names in two files": Case(
        {
            "a.c": "static int state = 1; static __attribute__((noinline)) int step(int n)\n"
            "{ state += n; return state; }\nint b(int);\n"
            "int answer(int n, char *o) { (void)o; return 1000 * step(n) + b(n); }\n",
            "b.c": "static int state = 100; static __attribute__((noinline)) int step(int n)\n"
            "{ state -= n; return state; }\nint b(int n) { return step(n); }\n",
        },
        {"b.c": ("state -= n", "state -= 2 * n")},
        "6095",
        "11085",
        {"step"},
    ),
    "a library function that was not used": Case(
        {"a.c": "#include <string.h>\n#include <stdio.h>\n" + SIMPLE},
        {
            "a.c": (
                "(void)out; total += n; return n * 3",
                'char *end = stpcpy(out, "answer "); snprintf(end, 9, "%d", n); return 0',
            )
        },
        "15",
        "answer 5",
        {"answer"},
    ),
    "thread-local variable": Case(
        {
            "a.c": "__thread int seen = 7; static __thread int mine;\n"
            "int answer(int n, char *o) { (void)o; seen += n; mine++; return seen + 100 * mine; }\n"
        },
        {"a.c": ("seen += n", "seen += 2 * n")},
        "112",
        "222",
        {"answer"},
    ),
    "new source file": Case(
        {"a.c": SIMPLE},
        {
            "a.c": (
                "(void)out; total += n; return n * 3",
                "extern int more(int); (void)out; return more(n)",
            ),
            "more.c": "int more(int n) { return n * 5; }\n",
        },
        "15",
        "25",
        {"answer"},
    ),
    "not optimised": Case(
        {"a.c": "static int f(int n) { return n * 3; }\n"
                "int answer(int n, char *o) { (void)o; return f(n); }\n"},
        {"a.c": ("n * 3", "n * 4")},
        "15",
        "20",
        {"f"},
        flags="-O0 -g",
    ),
    "optimised as far as it goes": Case(
        {
            "a.c": "int tab[64]; __attribute__((noinline)) long f(int n) { long s = 0;\n"
            "for (int i = 0; i < 64; i++) { tab[i] += n; s += tab[i] * 3; } return s; }\n"
            "int answer(int n, char *o) { (void)o; return f(n); }\n"
        },
        {"a.c": ("* 3", "* 5")},
        "960",
        "3200",
        {"f"},
        flags="-O3 -g",
    ),
    "not position-independent": Case(
        {
            "a.c": "#include <stdio.h>\nint base = 4; const char *names[] = {\"a\", \"b\"};\n"
            'int answer(int n, char *o) { sprintf(o, "%s %d", names[n & 1], base++); return 0; }\n'
        },
        {"a.c": ('"%s %d"', '"%s: %d"')},
        "b 4",
        "b: 5",
        {"answer"},
        flags="-O2 -g -fno-pie",
        link="-no-pie",
    ),
    "without debug information": Case(
        {"a.c": SIMPLE}, {"a.c": ("* 3", "* 4")}, "15", "20", {"answer"}, flags="-O2"
    ),
    "without PLT": Case(
        {"a.c": "#include <string.h>\nint limit = 3;\n"
                "int answer(int n, char *o) { strcpy(o, \"n\"); o[1] = '0' + n + limit; o[2] = 0;\n"
                "return (int)strlen(o); }\n"},
        {"a.c": ("n + limit", "n + limit + 1")},
        "n8",
        "n9",
        {"answer"},
        flags="-O2 -g -fPIC -fno-plt",
    ),
    "recursive": Case(
        {
            "a.c": "__attribute__((noinline)) int fib(int n)\n"
            "{ return n < 2 ? n : fib(n - 1) + fib(n - 2); }\n"
            "int answer(int n, char *o) { (void)o; return fib(n); }\n"
        },
        {"a.c": ("n < 2 ? n", "n < 2 ? 10 * n")},
        "5",
        "50",
        {"fib"},
    ),
    "tail call of a neighbour": Case(
        {
            "a.c": "__attribute__((noinline)) static int g(int n) { return n * 7 + 1; }\n"
            "__attribute__((noinline)) int f(int n) { return g(n + 1); }\n"
            "int answer(int n, char *o) { (void)o; return f(n) + g(n); }\n"
        },
        {"a.c": ("g(n + 1)", "g(n + 2)")},
        "79",
        "86",
        {"f"},
    ),
    "caller that relies on what is not touched": Case(  # -fipa-ra
        {
            "a.c": "static __attribute__((noinline)) int leaf(int n) { return n * 3; }\n"
            "__attribute__((noinline)) int caller(int n) { return leaf(n) + n * 7; }\n"
            "int answer(int n, char *o) { (void)o; return caller(n) + 1; }\n"
        },
        {
            "a.c": (
                "{ return n * 3; }",
                '{ __asm__ volatile("xor %%edi, %%edi" ::: "rdi", "rdx", "rcx", "rsi", "r8");'
                " return n * 4; }",
            )
        },
        "51",
        "56",
        {"leaf", "caller"},
    ),
    "an initial value that is left alone": Case(
        {"a.c": "int limit = 3;\nint answer(int n, char *o) { (void)o; return n * limit; }\n"},
        {"a.c": ("int limit = 3;\nint answer(int n, char *o) { (void)o; return n *",
                 "int limit = 9;\nint answer(int n, char *o) { (void)o; return 2 * n *")},
        "15",
        "30",
        {"answer"},
        options=("--keep", "limit"),
    ),
    "main is left alone": Case(
        {
            "main.c": "#include <stdio.h>\n#include <stdlib.h>\nint answer(int n);\n"
            "int total; __attribute__((noinline)) int answer(int n) { total += n; return n * 3; }\n"
            'int main(void) { char line[100]; setvbuf(stdout, NULL, _IOLBF, 0); puts("READY");\n'
            'while (fgets(line, 100, stdin)) printf("%d\\n", answer(atoi(line))); return 0; }\n'
        },
        {"main.c": ('n * 3; }\nint main(void) { char line[100]',
                    'n * 4; }\nint main(void) { char line[200]')},
        "15",
        "20",
        {"answer"},
        options=("--skip", "main"),
    ),
    "C++": Case(
        {
            "a.cc": "#include <stdexcept>\n#include <vector>\n#include <cstdio>\n"
            "struct Shape { virtual ~Shape() {} virtual int area(int n) const = 0; };\n"
            "struct Square : Shape { int area(int n) const override { return n * n; } };\n"
            "template <class T> struct Sum { T total = T(); void add(T v) { total += v; }\n"
            "T get() const { if (total > 1000) throw std::runtime_error(\"too much\");\n"
            "return total; } };\n"
            "static int compute(int n) { Square s; const Shape &shape = s; Sum<int> sum;\n"
            "std::vector<int> v; for (int i = 0; i < n; i++) v.push_back(shape.area(i));\n"
            "for (int x : v) sum.add(x); return sum.get(); }\n"
            'extern "C" int answer(int n, char *o) { try { return compute(n); }\n'
            "catch (const std::exception &e)\n"
            '{ snprintf(o, 99, "caught %s", e.what()); return 0; } }\n'
        },
        {"a.cc": ("total > 1000", "total > 20")},
        "30",
        "caught too much",
        set(),
        link="-lstdc++",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_diff(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    project = Project(
        tmp_path, case.files, flags=case.flags, compiler=case.compiler, link=case.link
    )
    check(case, project)


@pytest.mark.parametrize("strip", ["--strip-unneeded", "--strip-debug"])
@pytest.mark.parametrize("name", ["same names in two files", "static local", "jump table", "C++"])
def test_a_stripped_program(name: str, strip: str, tmp_path: Path) -> None:
    case = CASES[name]
    check(case, Project(tmp_path, case.files, flags=case.flags, link=case.link, strip=strip))


@pytest.mark.parametrize(
    "name", ["function", "jump table", "static local", "pointers stay equal", "inlined in callers"]
)
def test_another_compiler(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    check(case, Project(tmp_path, case.files, flags=case.flags, compiler="clang"))


def check(case: Case, project: Project) -> None:
    """Build, apply and revert the patch of a case."""
    with project.running() as program:
        assert program.ask(case.question) == case.before
        built = project.build(case.changes, *case.options)
        replaced = {f["name"] for f in built["functions"] if f["replaces"]}
        if case.replaced:
            assert replaced == case.replaced
        applied: Any = program.apply()
        assert {function["name"] for function in applied["functions"]} == replaced
        assert program.ask(case.question) == case.after
        program.revert()
        assert program.ask(0) is not None


def test_state_is_kept_to_and_fro(tmp_path: Path) -> None:
    project = Project(tmp_path, CASES["static local"].files)
    with project.running() as program:
        assert [program.ask(0) for _ in range(3)] == ["1", "2", "3"]
        project.build(CASES["static local"].changes)
        program.apply()
        assert [program.ask(0) for _ in range(2)] == ["8", "10"]
        program.revert()
        assert program.ask(0) == "6"

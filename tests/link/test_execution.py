# SPDX-License-Identifier: GPL-2.0-or-later
"""Linked images are run in every kind of executable, and compute what the source says."""

from __future__ import annotations

import pytest

from tests.link.conftest import KINDS, WITH_LIBRARY, CompilePatch, StartHost

every_kind = pytest.mark.parametrize("kind", KINDS)
with_library = pytest.mark.parametrize("kind", WITH_LIBRARY)


def compiler_for(kind: str) -> str:
    """A patch is made with the compiler of the program's C library."""
    return KINDS[kind][0]


REPLACE = "int compute(int x) { return x + 2; } HOTPATCH_REPLACE(compute);\n"


@every_kind
def test_globals_statics_and_original(
    kind: str, start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host(kind)
    patch = compile_patch(
        """
        extern int limit, lines, twice(int), only_in_parse(int), counter;
        HOTPATCH_EXTERN_STATIC("render.c", int, scale, (int));
        HOTPATCH_EXTERN_STATIC_AS(parse_scale, "parse.c", int, scale, (int));
        int compute(int x) { return HOTPATCH_ORIGINAL(compute)(x) * 2; }
        HOTPATCH_REPLACE(compute);
        long original(long x) { return compute(x); }
        long data(long x) { limit += x; lines++; return limit; }
        long statics(long x) { return scale(x) + parse_scale(x) + twice(x); }
        long nested(long x) { counter = 200; return only_in_parse(x); }
        """,
        compiler=compiler_for(kind),
    )
    loaded = host.load(patch)
    assert host.call(loaded.at("original"), 20) == 42
    assert host.call(loaded.at("data"), 2) == 42
    assert host.call(loaded.at("statics"), 3) == 3000 + 30 + 6
    assert host.call(loaded.at("nested"), 1) == 202
    state = host.state()
    assert state["limit"] == 42
    assert state["parse"] == 10 + 4 + 202


@every_kind
def test_library_functions_and_data(
    kind: str,
    start_host: StartHost,
    compile_patch: CompilePatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """memcpy, strlen and kin are indirect functions in glibc; stdout and environ are data."""
    monkeypatch.setenv("HOTPATCH_TEST", "12345")
    host = start_host(kind)
    patch = compile_patch(
        REPLACE
        + """
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        #include <ctype.h>
        extern const char *greeting;
        extern char **environ;
        const char *text(void) {
            static char buffer[200];
            char *volatile to = buffer;
            memcpy(to, greeting, strlen(greeting) + 1);
            for (char *c = buffer; *c; c++) *c = toupper(*c);
            return strchr(buffer, 'H') == buffer && !strcmp(buffer + 1, "ELLO FROM THE HOST")
                ? "copied" : buffer;
        }
        long length(long x) { return strlen(getenv("HOTPATCH_TEST")) + (environ != NULL); }
        long write_it(long x) { return fputs("written\\n", stdout); }
        long heap(long x) { char *p = malloc(x); memset(p, 7, x); int y = p[x - 1]; free(p); return
        y; }
        """,
        "-fno-builtin",
        compiler=compiler_for(kind),
    )
    loaded = host.load(patch)
    assert host.ask(f"text {loaded.at('text'):x}") == "copied"
    assert host.call(loaded.at("length")) == 6
    assert host.call(loaded.at("heap"), 100_000) == 7
    assert host.ask(f"call {loaded.at('write_it'):x} 0") == "written"

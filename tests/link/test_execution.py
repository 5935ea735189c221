# SPDX-License-Identifier: GPL-2.0-or-later
"""Linked images are run in every kind of executable, and compute what the source says."""

from __future__ import annotations

import pytest

from hotpatch.link.layout import Run
from tests.link.conftest import KINDS, WITH_LIBRARY, CompilePatch, StartHost

every_kind = pytest.mark.parametrize("kind", KINDS)
with_library = pytest.mark.parametrize("kind", WITH_LIBRARY)


def compiler_for(kind: str) -> str:
    """A patch is made with the compiler of the program's C library."""
    return KINDS[kind].compiler


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


@every_kind
def test_function_pointers(kind: str, start_host: StartHost, compile_patch: CompilePatch) -> None:
    """A replaced function has one address, the old one; calls in the patch reach the new code."""
    host = start_host(kind)
    patch = compile_patch(
        """
        extern int (*chosen)(int);
        extern int twice(int), is_compute(int (*)(int));
        int compute(int x) { return x + 2; }
        static int whisper(int x) { return x + 3; }
        HOTPATCH_REPLACE(compute);
        HOTPATCH_REPLACE_AS(parse, whisper);
        int render(int x) { return x + 4; }
        HOTPATCH_REPLACE(render);
        int (*table[])(int) = { compute, twice, whisper };
        int (*volatile pointer)(int);
        long same(long x) { pointer = compute; return is_compute(pointer) + (chosen == pointer); }
        long in_table(long x) { return is_compute(table[0]) + 10 * table[1](x); }
        long pointer_to_static(long x) { return (long)table[2]; }
        long direct(long x) { return render(x); }
        long choose(long x) { chosen = twice; return chosen(x); }
        """,
        compiler=compiler_for(kind),
    )
    loaded = host.load(patch)
    assert host.call(loaded.at("same")) == 2
    assert host.call(loaded.at("in_table"), 4) == 81
    assert host.call(loaded.at("pointer_to_static")) == host.symbol("parse")
    assert host.call(loaded.at("direct"), 4) == 8
    assert host.call(loaded.at("choose"), 4) == 8


@every_kind
@pytest.mark.parametrize("compiler", ["", "clang"])
def test_a_whole_file_compiled_again_has_the_targets_state(
    kind: str, compiler: str, start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host(kind)
    text = """
        int limit = 1;
        const char *greeting = "another";
        int unrelated = 5;
        int twice(int x) { return 1000; }
        int compute(int x) { return x + 2; }
        long look(long x) { limit += x; unrelated += x; return limit * 1000 + unrelated; }
        long call(long x) { return twice(x); }
        """
    if compiler == "clang" and "musl" in kind:
        pytest.skip("musl-gcc has no clang")
    patch = compile_patch(
        text, "-fsemantic-interposition", compiler=compiler or compiler_for(kind),
        replace=("compute",),
    )  # fmt: skip
    loaded = host.load(patch)
    assert host.call(loaded.at("look"), 2) == 42_007
    assert host.state()["limit"] == 42
    assert host.call(loaded.at("call"), 4) == 8
    assert [w for w in loaded.image.warnings if "`limit`" in w]
    assert not [w for w in loaded.image.warnings if "`unrelated`" in w]


@every_kind
def test_weak_symbols(kind: str, start_host: StartHost, compile_patch: CompilePatch) -> None:
    host = start_host(kind)
    patch = compile_patch(
        REPLACE
        + """
        extern int nowhere(int) __attribute__((weak));
        extern int nothing __attribute__((weak));
        extern int twice(int) __attribute__((weak));
        long look(long x) { return (nowhere != 0) + 2 * (&nothing != 0) + 4 * (twice != 0); }
        """,
        compiler=compiler_for(kind),
    )
    loaded = host.load(patch)
    assert host.call(loaded.at("look")) == 4


@every_kind
def test_indirect_function_of_the_patch(
    kind: str, start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host(kind)
    text = """
        static int plus_seven(int x) { return x + 7; }
        static int plus_eight(int x) { return x + 8; }
        static void *choose(void) { return plus_seven; }
        static void *choose_other(void) { return plus_eight; }
        int indirect(int x) __attribute__((ifunc("choose")));
        __attribute__((visibility("hidden"))) int hidden(int x)
            __attribute__((ifunc("choose_other")));
        int (*pointer)(int) = indirect;
        long call(long x) { return indirect(x); }
        long call_hidden(long x) { return hidden(x); }
        long call_pointer(long x) { return pointer(x); }
        """
    loaded = host.load(compile_patch(REPLACE + text, compiler=compiler_for(kind)))
    assert host.call(loaded.at("call"), 1) == 8
    assert host.call(loaded.at("call_hidden"), 1) == 9
    assert host.call(loaded.at("call_pointer"), 1) == 8


@every_kind
def test_constructors(kind: str, start_host: StartHost, compile_patch: CompilePatch) -> None:
    host = start_host(kind)
    plain = host.load(compile_patch(REPLACE, compiler=compiler_for(kind)))
    assert plain.image.calls == () and plain.image.fini == ()
    patch = compile_patch(
        REPLACE
        + """
        static int order;
        __attribute__((constructor(200))) void second(void) { order = order * 10 + 2; }
        __attribute__((constructor(101))) static void first(void) { order = order * 10 + 1; }
        __attribute__((constructor)) static void third(void) { order = order * 10 + 3; }
        __attribute__((destructor)) static void last(void) { order = 0; }
        long look(long x) { return order; }
        """,
        compiler=compiler_for(kind),
    )
    loaded = host.load(patch)
    assert [call.kind for call in loaded.image.calls] == ["constructor"] * 3
    assert host.call(loaded.at("look")) == 123
    for address in loaded.image.fini:
        host.call(address)
    assert host.call(loaded.at("look")) == 0


def test_code_in_the_init_section_is_run(
    start_host: StartHost, compile_patch: CompilePatch
) -> None:
    """There the start-up files leave room for more than their own."""
    host = start_host("pie")
    text = """
        int set;
        __attribute__((used, visibility("hidden"))) void in_init(void) { set = 5; }
        __asm__(".section .init,\\"ax\\"; call in_init; .text");
        long look(long x) { return set; }
        """
    loaded = host.load(compile_patch(REPLACE + text))
    assert [call.kind for call in loaded.image.calls] == ["constructor"]
    assert host.call(loaded.at("look")) == 5


def test_what_is_registered_for_the_exit_is_run(
    start_host: StartHost, compile_patch: CompilePatch
) -> None:
    host = start_host("pie")
    text = """
        #include <stdlib.h>
        int set;
        static void done(void) { set = 7; }
        __attribute__((constructor)) static void start(void) { atexit(done); }
        long look(long x) { return set; }
        """
    loaded = host.load(compile_patch(REPLACE + text))
    assert host.call(loaded.at("look")) == 0
    for address in loaded.image.fini:
        host.call(address)
    assert host.call(loaded.at("look")) == 7


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("-O0",),
        ("-O3", "-fvisibility=hidden", "-ffunction-sections", "-Wl,--gc-sections", "-s"),
        ("-Wl,-z,pack-relative-relocs",),
        ("-Wl,-z,now",),
        ("-Wl,-z,lazy", "-Wl,-z,norelro"),
        ("-Wl,-z,noseparate-code",),
        ("-Wl,-z,max-page-size=0x200000",),
        ("-Wl,-Bsymbolic", "-fno-plt"),
        ("-fuse-ld=gold",),
        ("-flto",),
        ("-Wl,-Ttext-segment=0x7000000",),
        ("-Wl,--hash-style=sysv",),
        ("-fcf-protection=full",),
        ("-mcmodel=medium",),
        ("-mcmodel=large", "-fno-plt"),
        ("-fprofile-arcs", "-nostartfiles", "-fno-profile-arcs"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compiler_and_linker_options(
    compiler: str, flags: tuple[str, ...], start_host: StartHost, compile_patch: CompilePatch
) -> None:
    if compiler == "clang" and any(f in flags for f in ("-flto", "-fprofile-arcs")):
        pytest.skip("not an option of clang with this linker")
    host = start_host("pie")
    patch = compile_patch(
        """
        #include <string.h>
        extern int limit, scale_of(int);
        HOTPATCH_EXTERN_STATIC("render.c", int, scale, (int));
        static int table[3000] = { 1, 2, 3 };
        static int zeros[3000];
        static int *const pointers[] = { &limit, table + 2, zeros };
        static const char *const names[] = { "one", "two", "three" };
        __attribute__((noinline)) static long names_length(void) {
            long n = 0;
            for (int i = 0; i < 3; i++) n += strlen(names[i]);
            return n;
        }
        int compute(int x) {
            zeros[x]++;
            return HOTPATCH_ORIGINAL(compute)(x) + *pointers[0] + *pointers[1] + scale(x)
                + pointers[2][x] + names_length();
        }
        HOTPATCH_REPLACE(compute);
        """,
        *flags,
        compiler=compiler,
    )
    loaded = host.load(patch)
    (replacement,) = patch.replacements
    new = loaded.image.bias + replacement.value
    assert host.call(new, 2) == 3 + 40 + 3 + 2000 + 1 + 11
    assert host.call(new, 2) == 3 + 40 + 3 + 2000 + 2 + 11
    _check_protections(loaded.image.runs, loaded.image.base, loaded.image.size)


def _check_protections(runs: tuple[Run, ...], base: int, size: int) -> None:
    assert runs[0].address == base
    end = base
    for address, length, prot in runs:
        assert address >= end and length > 0
        assert address % 4096 == length % 4096 == 0
        assert prot & 1 and prot & 6 != 6, "readable, never writable and executable"
        end = address + length
    assert end == base + size

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the symbols of a patch mean: which definition is taken, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hotpatch.elf import constants as c
from hotpatch.errors import Refused
from hotpatch.link import ifunc, scope
from hotpatch.link.image import link
from tests.link.conftest import CompilePatch, Host, StartHost
from tests.support.compiled import SharedObjects

REPLACE = "int compute(int x) { return x + 2; } HOTPATCH_REPLACE(compute);\n"


@pytest.fixture
def host(start_host: StartHost) -> Host:
    return start_host("pie")


def refusal(host: Host, compile_patch: CompilePatch, text: str, *flags: str) -> Refused:
    with pytest.raises(Refused) as caught:
        host.load(compile_patch(text, *flags), originals={})
    assert caught.value.hint
    return caught.value


# ---- replaced functions ----


def test_function_to_replace_not_there(host: Host, compile_patch: CompilePatch) -> None:
    error = refusal(
        host, compile_patch, "int compote(int x) { return x; } HOTPATCH_REPLACE(compote);"
    )
    assert "no function `compote`" in error.reason
    assert "did you mean `compute`?" in error.hint


def test_function_to_replace_in_two_files(host: Host, compile_patch: CompilePatch) -> None:
    text = "static int scale(int x) { return x; } HOTPATCH_REPLACE(scale);"
    error = refusal(host, compile_patch, text)
    assert "has 2 statics `scale`" in error.reason
    assert "parse.c" in error.reason and "render.c" in error.reason
    assert "HOTPATCH_REPLACE_STATIC" in error.hint


@pytest.mark.parametrize(
    ("function", "file", "hint"),
    [
        ("scale", "host.c", "has a static one in parse.c, render.c: name the file"),
        ("parse", "parse.c", "`parse` is global in"),
        ("parze", "parse.c", "did you mean `parse`"),
    ],
)
def test_function_to_replace_elsewhere(
    function: str, file: str, hint: str, host: Host, compile_patch: CompilePatch
) -> None:
    text = f'int f(int x) {{ return x; }} HOTPATCH_REPLACE_STATIC_AS("{file}", {function}, f);'
    error = refusal(host, compile_patch, text)
    assert f"no function `{function}` in {file}" in error.reason
    assert hint in error.hint


def test_function_to_replace_qualified(host: Host, compile_patch: CompilePatch) -> None:
    patch = compile_patch(
        """
        static int of_parse(int x) { return HOTPATCH_ORIGINAL(of_parse)(x) + 1; }
        static int of_render(int x) { return HOTPATCH_ORIGINAL(of_render)(x) + 2; }
        HOTPATCH_REPLACE_STATIC_AS("parse.c", scale, of_parse);
        HOTPATCH_REPLACE_STATIC_AS("some/where/render.c", scale, of_render);
        long both(long x) { return of_parse(x) * 100000 + of_render(x); }
        """
    )
    found = [scope.find_replaced(host.process, patch, r) for r in patch.replacements]
    assert {f.symbol.file for f in found} == {"parse.c", "render.c"}
    originals = {
        f"{r.file}:{r.name}": f.address for r, f in zip(patch.replacements, found, strict=True)
    }
    loaded = host.load(patch, originals)
    assert host.call(loaded.at("both"), 3) == 31 * 100000 + 3002


def test_function_of_a_library(host: Host, compile_patch: CompilePatch) -> None:
    patch = compile_patch(
        """
        extern int lent_hidden;
        int lent(int x) { return HOTPATCH_ORIGINAL(lent)(x) + lent_hidden; }
        HOTPATCH_REPLACE(lent);
        long call(long x) { return lent(x); }
        """
    )
    (replacement,) = patch.replacements
    found = scope.find_replaced(host.process, patch, replacement)
    assert found.module.path.endswith("/liblent.so")
    loaded = host.load(patch, {"lent": found.address})
    assert host.call(loaded.at("call"), 0) == host.state()["lent"] - 1 + 12


def test_static_function_of_a_library(host: Host, compile_patch: CompilePatch) -> None:
    """It has to be asked for: the program's own may have been inlined everywhere."""
    text = "int lent_static(void) { return 1; } "
    plain = text + "HOTPATCH_REPLACE(lent_static);"
    error = refusal(host, compile_patch, plain)
    assert "no function `lent_static`" in error.reason
    assert "/liblent.so has a static one in lent.c: name the file" in error.hint
    for asked in (
        text + 'HOTPATCH_REPLACE_STATIC("lent.c", lent_static);',
        plain + 'HOTPATCH_FOR_MODULE_BUILD_ID("liblent.so", "1234");',
    ):
        patch = compile_patch(asked)
        found = scope.find_replaced(host.process, patch, patch.replacements[0])
        assert found.module.path.endswith("/liblent.so")


def test_indirect_function_to_replace(host: Host, compile_patch: CompilePatch) -> None:
    text = "long my_strlen(const char *s) { return 0; } HOTPATCH_REPLACE_AS(strlen, my_strlen);"
    error = refusal(host, compile_patch, text)
    assert "`strlen` of" in error.reason and "is an indirect function" in error.reason


def test_variable_that_the_patch_calls(host: Host, compile_patch: CompilePatch) -> None:
    error = refusal(
        host, compile_patch, REPLACE + "int limit(int); int f(void) { return limit(1) + 1; }"
    )
    assert "`limit` is a function in the patch, but a variable in the target" in error.reason


def test_a_patch_made_for_a_library_looks_only_there(
    host: Host, compile_patch: CompilePatch
) -> None:
    text = REPLACE + 'HOTPATCH_FOR_MODULE_BUILD_ID("liblent.so", "1234");'
    error = refusal(host, compile_patch, text)
    assert "no function `compute`" in error.reason and "/liblent.so" in error.reason


def test_original_of_what_is_not_replaced(host: Host, compile_patch: CompilePatch) -> None:
    text = REPLACE + "int twice(int); long f(long x) { return HOTPATCH_ORIGINAL(twice)(x); }"
    error = refusal(host, compile_patch, text)
    assert "does not replace `twice`" in error.reason


# ---- undefined symbols ----


def test_all_missing_symbols_are_named(host: Host, compile_patch: CompilePatch) -> None:
    text = REPLACE + (
        "extern int twise(int), nowhere(int); extern __thread int no_thread; extern int no_data;"
        "long f(long x) { return twise(x) + nowhere(x) + no_thread + no_data; }"
    )
    error = refusal(host, compile_patch, text)
    assert set(error.symbols) == {"twise", "nowhere", "no_thread", "no_data"}
    assert all(f"`{name}`" in error.reason for name in error.symbols)
    assert "did you mean `twice`?" in error.hint


def test_ambiguous_static(host: Host, compile_patch: CompilePatch) -> None:
    text = REPLACE + "extern int scale(int); long f(long x) { return scale(x); }"
    error = refusal(host, compile_patch, text)
    assert "has 2 statics `scale`: in parse.c (`scale`), render.c (`scale`)" in error.reason
    assert "HOTPATCH_EXTERN_STATIC" in error.hint


def test_static_in_another_file(host: Host, compile_patch: CompilePatch) -> None:
    text = (
        'HOTPATCH_EXTERN_STATIC("host.c", int, scale, (int)); long f(long x) { return scale(x); }'
    )
    error = refusal(host, compile_patch, REPLACE + text)
    assert "no static `scale` in host.c" in error.reason
    assert "parse.c, render.c" in error.hint


def test_static_that_is_global(host: Host, compile_patch: CompilePatch) -> None:
    text = (
        'HOTPATCH_EXTERN_STATIC("host.c", int, twice, (int)); long f(long x) { return twice(x); }'
    )
    error = refusal(host, compile_patch, REPLACE + text)
    assert "`twice` is global" in error.hint


def test_unused_declarations_need_not_exist(host: Host, compile_patch: CompilePatch) -> None:
    text = 'extern int nowhere(int); HOTPATCH_EXTERN_STATIC("no.c", int, nothing, (int));'
    host.load(compile_patch(REPLACE + text))


def test_library_not_loaded(host: Host, compile_patch: CompilePatch, tmp_path: Path) -> None:
    SharedObjects(tmp_path)("int extra(int x) { return x; }", "-Wl,-soname,libextra.so.1").rename(
        tmp_path / "libextra.so"
    )
    text = REPLACE + "extern int extra(int); long f(long x) { return extra(x); }"
    error = refusal(host, compile_patch, text, f"-L{tmp_path}", "-lextra")
    assert "needs libextra.so.1, which the target has not loaded" in error.reason


def test_bindings_are_told(host: Host, compile_patch: CompilePatch) -> None:
    text = """
        #include <string.h>
        extern int limit, lines; extern void none(void) __attribute__((weak));
        static int use(void) { return limit + lines; }
        int compute(int x) { if (none) none(); return HOTPATCH_ORIGINAL(compute)(x) + use(); }
        HOTPATCH_REPLACE(compute);
        long length(char *s) { return strlen(s); }
        """
    patch = compile_patch(text, "-fno-builtin")
    loaded = host.load(patch, {"compute": 0x1234})
    told = {b.symbol: (b.address, b.module) for b in loaded.image.bindings}
    program = host.process.modules[0].path
    assert told["limit"] == (host.symbol("limit"), program)
    assert told["lines"] == (host.symbol("lines"), program)
    assert told["none"] == (0, None)
    assert told["__hotpatch_original_compute"] == (0x1234, None)
    assert "/libc.so.6" in (told["strlen"][1] or "")
    again = link(host.process, patch, loaded.image.base, {"compute": 0x1234})
    assert again == loaded.image, "the same every time"


def test_a_static_before_a_libraries_function(host: Host, compile_patch: CompilePatch) -> None:
    """parse.c has a static `strfry`; the header that the patch was compiled with is libc's."""
    text = REPLACE + "extern int strfry(int); long f(long x) { return strfry(x); }"
    loaded = host.load(compile_patch(text, "-fno-builtin"))
    assert host.call(loaded.at("f"), 5) == 500
    (warning,) = loaded.image.warnings
    assert "`strfry` is bound to the static of parse.c" in warning


def test_data_larger_than_the_targets(host: Host, compile_patch: CompilePatch) -> None:
    text = REPLACE + "int limit[100] = { 1 }; int *f(void) { return limit; }"
    error = refusal(host, compile_patch, text)
    assert "`limit` has 400 bytes in the patch" in error.reason and "has 4" in error.reason


def test_hidden_data_is_the_patchs_own(host: Host, compile_patch: CompilePatch) -> None:
    text = """
        __attribute__((visibility("hidden"))) int limit = 1;
        static int lines = 2;
        long f(long x) { limit += x; lines += x; return limit * 10 + lines; }
        """
    loaded = host.load(compile_patch(REPLACE + text))
    assert host.call(loaded.at("f"), 1) == 23
    assert host.state()["limit"] == 40
    for name, warning in zip(("limit", "lines"), loaded.image.warnings, strict=True):
        assert f"`{name}` is a variable of the patch's own" in warning


def test_new_state_is_no_second_copy(host: Host, compile_patch: CompilePatch) -> None:
    text = """
        static int new_state = 1;
        static const char *const greeting = "a constant";
        int compute(int x) { static int calls; return calls++ + new_state++ + *greeting; }
        HOTPATCH_REPLACE(compute);
        HOTPATCH_NAME("named");
        """
    assert not host.load(compile_patch(text)).image.warnings
    inside = """
        int compute(int x) { static int counter; return counter++; } HOTPATCH_REPLACE(compute);
        """
    (warning,) = host.load(compile_patch(inside)).image.warnings
    assert "`counter` is a variable of the patch's own" in warning


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("__stack_chk_nothing", "-fno-stack-protector"),
        ("__nothing_chk", "-U_FORTIFY_SOURCE"),
        ("__asan_nothing", "-fno-sanitize"),
    ],
)
def test_functions_that_compilers_call(
    call: str, hint: str, host: Host, compile_patch: CompilePatch
) -> None:
    text = REPLACE + f"extern int {call}(void); long f(long x) {{ return {call}(); }}"
    assert hint in refusal(host, compile_patch, text).hint


# ---- libraries ----


def test_hidden_symbol_of_a_library(host: Host, compile_patch: CompilePatch) -> None:
    """The linker made it local; the static of the same name is in a file that can be named."""
    text = """
        int lent(int x) { return x; }
        HOTPATCH_REPLACE(lent);
        extern int lent_inside(void);
        HOTPATCH_EXTERN_STATIC_AS(of_file, "lent.c", int, lent_static, (void));
        long f(long x) { return lent_inside() * 100 + of_file(); }
        """
    loaded = host.load(compile_patch(text), {"lent": 0})
    assert host.call(loaded.at("f")) == 1314


def test_variable_copied_into_the_program(
    start_host: StartHost, compile_patch: CompilePatch
) -> None:
    """A program that isn't position-independent has its own copy, which its library uses too."""
    text = """
        extern int lent_value;
        int lent(int x) { return x; }
        HOTPATCH_REPLACE(lent);
        long add(long x) { return lent_value += x; }
        """
    for kind in ("no-pie", "pie"):
        host = start_host(kind)
        loaded = host.load(compile_patch(text), {"lent": 0})
        assert host.call(loaded.at("add"), 3) == 10
        assert host.state()["lent_value"] == 10


def test_address_of_a_library_function_in_a_program_with_fixed_addresses(
    start_host: StartHost, compile_patch: CompilePatch
) -> None:
    """Pointers to it are to the program's PLT, in the program and in its libraries."""
    text = (
        REPLACE
        + """
        extern int lent(int);
        extern int (*chosen)(int);
        int (*volatile pointer)(int) = lent;
        long point(long x) { return (long)pointer; }
        long call(long x) { return lent(x); }
        """
    )
    for kind in ("no-pie", "pie"):
        host = start_host(kind)
        loaded = host.load(compile_patch(text))
        assert host.call(loaded.at("point")) == host.call(host.symbol("address_of_lent"))
        assert host.call(loaded.at("call"), 1) == host.state()["lent"]


def test_versions(host: Host, compile_patch: CompilePatch) -> None:
    """The exact version that a patch asks for, else the default one."""
    text = (
        REPLACE
        + """
        __asm__(".symver old_memcpy, memcpy@GLIBC_2.2.5");
        extern void *old_memcpy(void *, const void *, unsigned long);
        extern void *memcpy(void *, const void *, unsigned long);
        void *volatile pointers[2];
        void f(void) { pointers[0] = old_memcpy; pointers[1] = memcpy; }
        """
    )
    libc = next(m for m in host.process.modules if m.path.endswith("/libc.so.6"))
    old = scope.exported(libc, "memcpy", "GLIBC_2.2.5")
    new = scope.exported(libc, "memcpy", "GLIBC_2.14")
    assert old and new and old.value != new.value
    assert scope.exported(libc, "memcpy") == new
    assert scope.exported(libc, "memcpy", "GLIBC_9.9") == new
    assert scope.exported(libc, "no_such_function") is None
    host.load(compile_patch(text, "-fno-builtin"))


def test_indirect_functions_are_as_the_program_has_them(start_host: StartHost) -> None:
    """Every indirect function of libc that some slot answers for: the same answer everywhere."""
    host = start_host("pie")
    libc = next(m for m in host.process.modules if m.path.endswith("/libc.so.6"))
    found = 0
    for symbol in libc.elf.dynamic_symbols:
        if symbol.type == c.STT_GNU_IFUNC and symbol.default_version:
            address = ifunc.resolved(host.process, scope.Definition(libc, symbol))
            if address is not None:
                found += 1
                chosen = host.call(libc.bias + symbol.value)
                assert address == chosen, symbol.name
    assert found > 20


@pytest.mark.parametrize("kind", ["static", "static-pie"])
def test_indirect_functions_of_static_programs(kind: str, start_host: StartHost) -> None:
    host = start_host(kind)
    program = host.process.modules[0]
    for name in ("memcpy", "strlen", "strchr", "memset"):
        # What is hidden in a library is local in a program that the library was linked into.
        symbol = scope.global_symbol(program, name) or scope.static_symbol(program, name, None, "")
        assert symbol and symbol.type == c.STT_GNU_IFUNC
        address = ifunc.resolved(host.process, scope.Definition(program, symbol))
        assert address == host.call(program.bias + symbol.value), name


def test_indirect_function_that_nobody_used(host: Host, compile_patch: CompilePatch) -> None:
    """Its resolver is left to be called at the commit."""
    libc = next(m for m in host.process.modules if m.path.endswith("/libc.so.6"))
    unknown = next(
        s
        for s in libc.elf.dynamic_symbols
        if s.type == c.STT_GNU_IFUNC
        and s.default_version
        and s.name in ("wcsnlen", "strspn", "strpbrk", "strcspn", "wmemset", "strncat")
        and ifunc.resolved(host.process, scope.Definition(libc, s)) is None
    )
    text = (
        REPLACE
        + f"""
        extern long {unknown.name}();
        long (*volatile pointer)() = {unknown.name};
        long f(long x) {{ return (long)pointer; }}
        """
    )
    loaded = host.load(compile_patch(text, "-fno-builtin"))
    (call,) = loaded.image.calls
    assert call.kind == "ifunc" and call.address == libc.bias + unknown.value
    assert host.call(loaded.at("f")) == host.call(call.address)
    run = next(r for r in loaded.image.runs if r.address <= (call.slot or 0) < r.address + r.size)
    assert run.prot & 2, "the slot is in memory that the target can write"


# ---- stripped targets ----


def test_stripped_program_with_its_debug_file(
    start_host: StartHost, compile_patch: CompilePatch, tmp_path: Path
) -> None:
    whole = start_host("pie")
    path = tmp_path / "host"
    path.write_bytes(whole.path.read_bytes())
    path.chmod(0o755)
    for library in ("lent", "opened"):
        (tmp_path / f"lib{library}.so").symlink_to(whole.path.parent / f"lib{library}.so")
    debug = tmp_path / "host.debug"
    for command in (
        ["objcopy", "--only-keep-debug", path, debug],
        ["strip", "--strip-all", path],
        ["objcopy", f"--add-gnu-debuglink={debug}", path],
    ):
        subprocess.run(command, check=True, cwd=tmp_path)
    text = "extern int lines; int compute(int x) { return lines + x; } HOTPATCH_REPLACE(compute);"
    patch = compile_patch(text + "long f(long x) { return compute(x); }")
    host = Host(path)
    try:
        loaded = host.load(patch, {"compute": 0})
        assert host.call(loaded.at("f"), 1) == 4
    finally:
        host.close()
    debug.unlink()
    host = Host(path)
    try:
        with pytest.raises(Refused, match="no function `compute`") as caught:
            host.load(patch, {"compute": 0})
        assert "debug file" in caught.value.hint
    finally:
        host.close()

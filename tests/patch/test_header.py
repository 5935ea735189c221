# SPDX-License-Identifier: GPL-2.0-or-later
"""hotpatch.h says the same whatever compiles it, and gives no compiler reason to warn."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotpatch.patch.file import PatchFile
from hotpatch.patch.manifest import KINDS, StaticReference
from tests.support.compiled import INCLUDE, CompileError, CompileShared, run_compiler

EVERYTHING = """
#include <hotpatch.h>

#ifdef __cplusplus
extern "C" {
#endif

extern int limit;
HOTPATCH_EXTERN_STATIC("parse.c", int, parse_line, (const char *));
HOTPATCH_EXTERN_STATIC_AS(other_line, "src/other-parse.c", const char *, parse_line, (void));
HOTPATCH_EXTERN_STATIC_DATA("parse.c", int[16], lengths);
HOTPATCH_EXTERN_STATIC_DATA_AS(handler, "table.c", int (*)(int), default_handler);
HOTPATCH_EXTERN_STATIC_THREAD("parse.c", int, depth);

int compute(int x);
int compute(int x) { return HOTPATCH_ORIGINAL(compute)(x) + limit + lengths[3] + depth; }
HOTPATCH_REPLACE(compute);

static int hidden(int x) { return parse_line(other_line()) + handler(x); }
HOTPATCH_REPLACE_STATIC("src/parse.c", hidden);

static void fix(int x) { HOTPATCH_ORIGINAL(fix)(x); (*HOTPATCH_ORIGINAL(fix))(x + 1); }
HOTPATCH_REPLACE_AS(broken, fix);
static void fix_of_file(int x) { HOTPATCH_ORIGINAL(fix_of_file)(x); }
HOTPATCH_REPLACE_STATIC_AS("a file.c", broken, fix_of_file);

static int transfer(void)
{
    struct node { struct node *next; } *list = 0;
    volatile int number = 1;
    hotpatch_each (i, 3)
        hotpatch_set(number, number + (int)i);
    hotpatch_each_in_list (node, list, next)
        hotpatch_free(node);
    list = (struct node *)hotpatch_alloc(sizeof *list);
    hotpatch_write(&limit, lengths, sizeof limit);
    hotpatch_say("%d %p", number, (void *)list);
    if (hotpatch_shadow_find(list, 1) != hotpatch_shadow_attach(list, 1, 8))
        hotpatch_shadow_free(list, 1);
    if (number == 7)
        hotpatch_fail("seven");
    return 0;
}
HOTPATCH_TRANSFER(transfer);
HOTPATCH_REVERSE(transfer);
static int checks(void) { return 0; }
HOTPATCH_CHECK(checks);

HOTPATCH_NAME("fix-1");
HOTPATCH_DESCRIPTION("what it does: \\u00fcber");
HOTPATCH_FOR_BUILD_ID("00ABcdef");
HOTPATCH_FOR_BUILD_ID("1234");
HOTPATCH_FOR_MODULE_BUILD_ID("libfoo.so.1", "5678");

#ifdef __cplusplus
}
#endif
"""

WARNINGS = (
    "-Wall", "-Wextra", "-Wconversion", "-Wcast-qual", "-Wcast-function-type", "-Wshadow",
    "-Wredundant-decls", "-Wnested-externs", "-Werror",
)  # fmt: skip

OPTIONS = [
    ("-O0",),
    ("-Og",),
    ("-O2", "-g"),
    ("-O3", "-fvisibility=hidden"),
    ("-Os", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    ("-O2", "-fvisibility=hidden", "-ffunction-sections", "-Wl,--gc-sections", "-s"),
    ("-O2", "-Wl,-Bsymbolic"),
    ("-O2", "-fno-plt", "-Wl,-z,now"),
    ("-O2", "-Wl,-z,pack-relative-relocs"),
    ("-O2", "-flto"),
    ("-O2", "-fuse-ld=gold"),
    ("-O2", "-fuse-ld=gold", "-Wl,--gc-sections", "-Wl,--icf=safe"),
    ("-O2", "-Wl,--hash-style=sysv"),
    ("-O2", "-fsanitize=undefined"),
    ("-O2", "-fno-common", "-fdata-sections"),
    ("-O2", "-mcmodel=large", "-fno-plt"),
]
STANDARDS = [
    ("c", "-std=c99", "-pedantic"),
    ("c", "-std=c11", "-pedantic-errors", *WARNINGS[:-1]),
    ("c", "-std=gnu11", *WARNINGS, "-Wno-nested-externs", "-Wno-redundant-decls"),
    ("c", "-std=gnu17", "-Wstrict-prototypes", "-Wall", "-Werror"),
    ("cc", "-std=c++11", "-Wall", "-Wextra", "-Werror"),
    ("cc", "-std=c++20", "-pedantic", "-Wall", "-Wextra", "-Werror"),
]


def check(patch: PatchFile) -> None:
    assert patch.name == "fix-1"
    assert patch.description == "what it does: über"
    assert set(patch.build_ids) == {(None, "00abcdef"), (None, "1234"), ("libfoo.so.1", "5678")}
    assert {(r.name, r.file, r.symbol) for r in patch.replacements} == {
        ("compute", None, "compute"),
        ("hidden", "src/parse.c", "hidden"),
        ("broken", None, "fix"),
        ("broken", "a file.c", "fix_of_file"),
    }
    assert len({r.value for r in patch.replacements}) == 4
    assert set(patch.statics) == {
        StaticReference("__hotpatch_static_parse_line", "parse.c", "parse_line"),
        StaticReference("__hotpatch_static_other_line", "src/other-parse.c", "parse_line"),
        StaticReference("__hotpatch_static_lengths", "parse.c", "lengths"),
        StaticReference("__hotpatch_static_handler", "table.c", "default_handler"),
        StaticReference("__hotpatch_static_depth", "parse.c", "depth"),
    }
    assert [(KINDS[t.kind], t.name, t.line) for t in patch.transfers] == [
        ("transfer", "transfer", 44),
        ("reverse", "transfer", 45),
        ("check", "checks", 47),
    ]
    assert patch.transfers[0].value == patch.transfers[1].value
    undefined = {symbol.name for symbol in patch.elf.dynamic_symbols.undefined()}
    assert {s.alias for s in patch.statics} <= undefined
    assert "__hotpatch_original_compute" in undefined


def is_where_the_symbol_is(patch: PatchFile) -> None:
    for replacement in patch.replacements:
        symbols = patch.elf.symbols.by_name(replacement.symbol)
        assert replacement.value in {symbol.value for symbol in symbols}
    assert patch.runtime is not None
    for name, value in (
        ("__hotpatch_runtime", patch.runtime.state),
        ("hotpatch_rollback_", patch.runtime.rollback),
        ("hotpatch_settle_", patch.runtime.settle),
        *((transfer.name, transfer.value) for transfer in patch.transfers),
    ):
        assert value in {symbol.value for symbol in patch.elf.symbols.by_name(name)}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_options(compiler: str, options: tuple[str, ...], compile_shared: CompileShared) -> None:
    if compiler == "clang" and "-flto" in options:
        pytest.skip("not with this linker")
    patch = PatchFile.open(str(compile_shared(EVERYTHING, *options, compiler=compiler)))
    check(patch)
    if "-s" not in options:
        is_where_the_symbol_is(patch)


@pytest.mark.parametrize("optimize", ["-O0", "-O2"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("standard", STANDARDS, ids=lambda s: s[1])
def test_standards_and_warnings(
    compiler: str, standard: tuple[str, ...], optimize: str, compile_shared: CompileShared
) -> None:
    language, *flags = standard
    path = compile_shared(
        EVERYTHING.replace("\\u00fc", "\u00fc"), *flags, optimize,
        compiler={"c": compiler, "cc": {"gcc": "g++", "clang": "clang++"}[compiler]}[language],
        language=language,
    )  # fmt: skip
    patch = PatchFile.open(str(path))
    if language == "c":
        check(patch)
        is_where_the_symbol_is(patch)
    else:
        assert len(patch.replacements) == 4 and len(patch.statics) == 5


def test_records_of_several_files(compile_shared: CompileShared, tmp_path: Path) -> None:
    other = tmp_path / "other.c"
    other.write_text(
        "#include <hotpatch.h>\n"
        'HOTPATCH_EXTERN_STATIC("parse.c", int, parse_line, (const char *));\n'
        'int more(void) { return parse_line("x"); }\n'
        "HOTPATCH_REPLACE(more);\n"
    )
    path = compile_shared(EVERYTHING, str(other), "-O2")
    patch = PatchFile.open(str(path))
    assert len(patch.replacements) == 5
    assert len(patch.statics) == 5, "the same meaning in two files is one"


def test_macros_name_what_they_stand_for(compile_shared: CompileShared) -> None:
    """A program that renames a function by the preprocessor has the new name in its symbols."""
    path = compile_shared(
        """
        #include <hotpatch.h>
        #define compute compute_version_2
        int compute(int x) { return HOTPATCH_ORIGINAL(compute)(x); }
        HOTPATCH_REPLACE(compute);
        """
    )
    (replacement,) = PatchFile.open(str(path)).replacements
    assert replacement.name == replacement.symbol == "compute_version_2"


COMPILERS = [("gcc", "c"), ("clang", "c"), ("g++", "cc"), ("clang++", "cc")]


def test_transfers_of_several_files_have_one_log(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.c").write_text(
            f"""
            #include <hotpatch.h>
            int f_{name}(void) {{ return 0; }}
            HOTPATCH_REPLACE(f_{name});
            static int transfer(void) {{ int x = 0; hotpatch_set(x, 1); return 0; }}
            HOTPATCH_TRANSFER(transfer);
            """
        )
    output = tmp_path / "both.so"
    run_compiler(
        *("gcc", "-I", INCLUDE, "-shared", "-fPIC", "-O2", "-o", output),
        *(tmp_path / "one.c", tmp_path / "two.c"),
    )
    patch = PatchFile.open(str(output))
    assert [t.file.rpartition("/")[2] for t in patch.transfers] == ["one.c", "two.c"]
    assert patch.runtime is not None


@pytest.mark.parametrize(("compiler", "language"), COMPILERS)
def test_a_transfer_of_the_wrong_type_does_not_compile(
    compiler: str, language: str, compile_shared: CompileShared
) -> None:
    text = """
        #include <hotpatch.h>
        static int grow(int x) { return x; }
        HOTPATCH_TRANSFER(grow);
        """
    with pytest.raises(CompileError, match=r"grow has to be int grow|int \(\*\)\(void\)"):
        compile_shared(text, compiler=compiler, language=language)


def test_a_patch_without_transfers_has_nothing_for_them(compile_shared: CompileShared) -> None:
    path = compile_shared("#include <hotpatch.h>\nint f(void) { return 0; }\nHOTPATCH_REPLACE(f);")
    patch = PatchFile.open(str(path))
    assert (patch.transfers, patch.runtime) == ((), None)
    functions = {s.name for s in patch.elf.symbols if s.name.startswith("hotpatch_")}
    assert functions == set()


def test_original_of_the_wrong_type_does_not_compile(compile_shared: CompileShared) -> None:
    with pytest.raises(CompileError, match="too many arguments"):
        compile_shared(
            """
            #include <hotpatch.h>
            int compute(int x) { return HOTPATCH_ORIGINAL(compute)(x, 1); }
            """
        )


def test_replacing_by_a_function_of_another_file_does_not_compile(
    compile_shared: CompileShared,
) -> None:
    with pytest.raises(CompileError, match="undeclared"):
        compile_shared("#include <hotpatch.h>\nHOTPATCH_REPLACE(compute);\n")

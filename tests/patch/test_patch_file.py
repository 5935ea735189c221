# SPDX-License-Identifier: GPL-2.0-or-later
"""What is a patch, and what is refused as none, with the way out."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hotpatch.elf.file import ElfFile
from hotpatch.errors import Refused
from hotpatch.patch import file
from hotpatch.patch.file import PatchFile
from hotpatch.patch.manifest import records_range
from hotpatch.patch.trust import trust_problem
from tests.support.compiled import CompileShared

ONE = "#include <hotpatch.h>\nint one(int x) { return x; } HOTPATCH_REPLACE(one);\n"
PLAIN = "int one(int x) { return x; } int two(int x) { return 2 * x; } static int three(void);"


def refusal(path: str | Path, *replace: str) -> Refused:
    with pytest.raises(Refused) as caught:
        PatchFile.open(str(path), replace)
    assert caught.value.hint, "every refusal says what to do"
    return caught.value


def test_identity(compile_shared: CompileShared) -> None:
    path = compile_shared(ONE, "-Wl,--build-id=sha1")
    patch = PatchFile.open(str(path))
    content = path.read_bytes()
    assert patch.digest == hashlib.sha256(content).hexdigest()
    assert patch.id == ElfFile.from_bytes(content).build_id.hex()  # type: ignore[union-attr]
    assert patch.name == path.stem and patch.description is None
    without = PatchFile.open(str(compile_shared(ONE, "-Wl,--build-id=none")))
    assert without.id == without.digest[:40]


@pytest.mark.parametrize("large_file", [0, 1 << 20])
@pytest.mark.parametrize("missing", [(), ("_sha2",), ("_sha2", "_sha256")])
def test_the_digest_is_the_same_however_it_is_made(
    large_file: int, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_LARGE_FILE", large_file)
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    content = bytes(range(200)) * 7
    assert file._sha256(content) == hashlib.sha256(content).hexdigest()


def test_the_content_is_what_it_was_when_opened(compile_shared: CompileShared) -> None:
    path = compile_shared(ONE)
    patch = PatchFile.open(str(path))
    code = patch.elf.read(patch.replacements[0].value, 4)
    os.truncate(path, 0)
    assert patch.elf.read(patch.replacements[0].value, 4) == code


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["one"], [("one", None, "one")]),
        (["one=two"], [("one", None, "two")]),
        (["one=two", "two=one"], [("one", None, "two"), ("two", None, "one")]),
        (["a.c:one=two"], [("one", "a.c", "two")]),
        (["src/a.c:one"], [("one", "src/a.c", "one")]),
    ],
)
def test_plain_shared_object(
    options: list[str],
    expected: list[tuple[str, str | None, str]],
    compile_shared: CompileShared,
) -> None:
    patch = PatchFile.open(str(compile_shared(PLAIN)), options)
    assert [(r.name, r.file, r.symbol) for r in patch.replacements] == expected
    for replacement in patch.replacements:
        (symbol,) = patch.elf.symbols.by_name(replacement.symbol)
        assert replacement.value == symbol.value


def test_manifest_and_option_together(compile_shared: CompileShared) -> None:
    path = compile_shared(ONE + "int two(int x) { return x; }")
    patch = PatchFile.open(str(path), ["other=two"])
    assert {r.name for r in patch.replacements} == {"one", "other"}
    same = PatchFile.open(str(path), ["one"])
    assert same.replacements == PatchFile.open(str(path)).replacements


@pytest.mark.parametrize("option", ["", "=", "one=", "=two", "a.c:", "a.c:=two"])
def test_options_that_name_nothing(option: str, compile_shared: CompileShared) -> None:
    assert "does not name a function" in refusal(compile_shared(PLAIN), option).reason


def test_nothing_is_replaced(compile_shared: CompileShared) -> None:
    error = refusal(compile_shared(PLAIN))
    assert "says nothing about what it replaces" in error.reason
    assert "one, two" in error.hint


@pytest.mark.parametrize("name", ["nowhere", "data", "three", "strlen"])
def test_new_function_that_is_not_there(name: str, compile_shared: CompileShared) -> None:
    more = 'int data; long strlen(const char *); long l(void) { return strlen("x") + data; }'
    path = compile_shared(PLAIN + more, "-fno-builtin")
    assert f"does not define a function `{name}`" in refusal(path, f"one={name}").reason


def test_new_function_defined_twice(compile_shared: CompileShared, tmp_path: Path) -> None:
    other = tmp_path / "other.c"
    keep = "static int same(int x) { return x; } int %s(int x) { int (*volatile f)(int) = same; "
    keep += "return f(x); }"
    other.write_text(keep % "b")
    path = compile_shared(keep % "a", str(other))
    assert "defines 2 functions `same`" in refusal(path, "one=same").reason


def test_replaced_twice(compile_shared: CompileShared) -> None:
    two = "int two(int x) { return x; } HOTPATCH_REPLACE_AS(one, two);"
    assert (
        "replaces `one` twice, by `one` and by `two`" in refusal(compile_shared(ONE + two)).reason
    )
    path = compile_shared(ONE + "int two(int x) { return x; }")
    assert "replaces `one` twice" in refusal(path, "one=two").reason
    assert "replaces `two` twice" in refusal(path, "two", "two=one").reason


def test_replaced_in_two_files_is_two_functions(compile_shared: CompileShared) -> None:
    text = """
        #include <hotpatch.h>
        static int a(int x) { return x; }
        static int b(int x) { return x; }
        HOTPATCH_REPLACE_STATIC_AS("a.c", f, a);
        HOTPATCH_REPLACE_STATIC_AS("b.c", f, b);
        """
    assert len(PatchFile.open(str(compile_shared(text, "-O0"))).replacements) == 2


def test_replacement_not_defined(compile_shared: CompileShared) -> None:
    path = compile_shared("#include <hotpatch.h>\nint one(int); HOTPATCH_REPLACE(one);")
    assert "by `one`, which it does not define" in refusal(path).reason


def test_replacement_without_instructions(compile_shared: CompileShared) -> None:
    text = "#include <hotpatch.h>\nint f(int x) { __builtin_unreachable(); } HOTPATCH_REPLACE(f);"
    assert "has no instructions" in refusal(compile_shared(text, "-O2")).reason


def test_replacement_by_data(compile_shared: CompileShared) -> None:
    text = """
        #include <hotpatch.h>
        struct hotpatch_record record __attribute__((section("hotpatch_records"), used)) =
            { HOTPATCH_KIND_REPLACE, 1, "a=b", 0, (void (*)(void))&record };
        int f(void) { return 1; }
        """
    assert "is not code of the patch" in refusal(compile_shared(text)).reason


def test_replacement_by_an_indirect_function(compile_shared: CompileShared) -> None:
    text = """
        static int real(int x) { return x; }
        static void *choose(void) { return real; }
        int one(int) __attribute__((ifunc("choose")));
        """
    assert "indirect function" in refusal(compile_shared(text), "one").reason


def test_thread_local_variables(compile_shared: CompileShared) -> None:
    path = compile_shared(ONE + "__thread int mine; int *f(void) { return &mine; }")
    assert "defines thread-local variables" in refusal(path).reason


def test_text_relocations(compile_shared: CompileShared) -> None:
    path = compile_shared(
        ONE + "static int data; long f(void) { return (long)&data; }",
        "-mcmodel=large", "-Wl,-z,notext", shared=("-shared", "-fno-pic"),
    )  # fmt: skip
    error = refusal(path)
    assert "relocations in its code" in error.reason and "-fPIC" in error.hint


def test_writable_code(compile_shared: CompileShared) -> None:
    asm = '__asm__(".section .both, \\"awx\\"; nop; .previous");'
    assert "writable and executable" in refusal(compile_shared(ONE + asm)).reason


def test_large_alignment_and_size(compile_shared: CompileShared) -> None:
    aligned = ONE + "int data[4] __attribute__((aligned(16384))); int *f(void) { return data; }"
    assert "alignment of 16384" in refusal(compile_shared(aligned)).reason
    large = ONE + "static char data[1 << 29]; char *f(void) { return data; }"
    assert "takes more than 256 MiB" in refusal(compile_shared(large)).reason


@pytest.mark.parametrize(
    ("shared", "what"),
    [
        (("-c",), "an object file"),
        (("-pie", "-fPIE"), "a program"),
        (("-no-pie",), "a program"),
        (("-static-pie", "-fPIE"), "a program"),
    ],
)
def test_other_elf_files(shared: tuple[str, ...], what: str, compile_shared: CompileShared) -> None:
    error = refusal(compile_shared(ONE + "int main(void) { return 0; }", shared=shared))
    assert f"is {what}, not a shared object" in error.reason
    assert "-shared -fPIC" in error.hint


def test_32_bit_files(compile_shared: CompileShared) -> None:
    content = bytearray(compile_shared(ONE).read_bytes())
    path = compile_shared(ONE)
    content[4] = 1
    path.write_bytes(content)
    assert "a 32-bit file" in refusal(path).reason


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n", b"int f(void);" * 100])
def test_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(content)
    assert "no shared object that can be read" in refusal(path).reason


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.so").reason
    assert "not a regular file" in refusal(tmp_path).reason
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe").reason
    assert "not a regular file" in refusal("/dev/zero").reason
    assert "can't be read" in refusal("a\0b").reason


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, 6, "record of kind 6, version 1"),
        (0, 0, "record of kind 0, version 1"),
        (4, 2, "record of kind 1, version 2"),
    ],
)
def test_records_of_a_newer_header(
    offset: int, value: int, reason: str, compile_shared: CompileShared
) -> None:
    path = compile_shared(ONE)
    content = bytearray(path.read_bytes())
    section = ElfFile.from_bytes(bytes(content)).section("hotpatch_records")
    assert section
    struct.pack_into("<I", content, section.offset + offset, value)
    path.write_bytes(content)
    error = refusal(path)
    assert "made for a newer hotpatch" in error.reason and reason in error.reason


def test_records_without_section_headers_are_not_there(compile_shared: CompileShared) -> None:
    """They have no other way in; --replace still has the dynamic symbols."""
    path = compile_shared(ONE)
    content = bytearray(path.read_bytes())
    content[40:48] = bytes(8)  # e_shoff
    content[60:64] = bytes(4)  # e_shnum, e_shstrndx
    path.write_bytes(content)
    assert "says nothing" in refusal(path).reason
    assert PatchFile.open(str(path), ["one"]).replacements[0].name == "one"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('HOTPATCH_FOR_BUILD_ID("xyz");', "not hexadecimal"),
        ('HOTPATCH_FOR_BUILD_ID("");', "not hexadecimal"),
        ('HOTPATCH_NAME("a\\nb");', "control characters"),
        ('HOTPATCH_NAME("\\377");', "not UTF-8"),
        ('HOTPATCH_EXTERN_STATIC("", int, f, (void)); int g(void) { return f(); }', "a static"),
    ],
)
def test_damaged_manifests(text: str, reason: str, compile_shared: CompileShared) -> None:
    assert reason in refusal(compile_shared(ONE + text)).reason


def test_one_alias_for_two_statics(compile_shared: CompileShared, tmp_path: Path) -> None:
    other = tmp_path / "other.c"
    declare = '\nHOTPATCH_EXTERN_STATIC("%s.c", int, f, (void)); int use_%s(void) { return f(); }'
    other.write_text("#include <hotpatch.h>" + declare % ("b", "b"))
    error = refusal(compile_shared(ONE + declare % ("a", "a"), str(other)))
    assert "`f` is declared as the static `f` of " in error.reason
    assert "a.c" in error.reason and "b.c" in error.reason
    assert "HOTPATCH_EXTERN_STATIC_AS" in error.hint


def test_records_range(compile_shared: CompileShared) -> None:
    elf = ElfFile.open(str(compile_shared(ONE)))
    assert len(records_range(elf)) == 32
    assert not records_range(ElfFile.open(str(compile_shared(PLAIN))))


def test_strip_leaves_the_manifest(compile_shared: CompileShared) -> None:
    path = compile_shared(ONE)
    before = PatchFile.open(str(path)).replacements
    subprocess.run(["strip", path], check=True)
    assert PatchFile.open(str(path)).replacements == before


def test_trust(compile_shared: CompileShared, tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(compile_shared(ONE).read_bytes())
    path.chmod(0o755)
    assert trust_problem(str(path)) is None
    assert PatchFile.open(str(path)).trust is None
    path.chmod(0o757)
    assert "can be written by every user (mode 0757)" in (trust_problem(str(path)) or "")
    assert PatchFile.open(str(path)).trust == trust_problem(str(path))
    path.chmod(0o755)
    tmp_path.chmod(0o777)
    assert "can be replaced by every user" in (trust_problem(str(path)) or "")
    tmp_path.chmod(0o777 | stat.S_ISVTX)
    assert trust_problem(str(path)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_somebody_else(compile_shared: CompileShared, tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(compile_shared(ONE).read_bytes())
    os.chown(path, 12345, -1)
    assert "belongs to user 12345, neither root nor you" in (trust_problem(str(path)) or "")

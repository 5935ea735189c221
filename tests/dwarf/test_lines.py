# SPDX-License-Identifier: GPL-2.0-or-later
"""Source positions and inlined callers, as binutils' addr2line and gdb have them."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.lines import Position, SourceLines
from hotpatch.elf.debuglink import find_debug_file
from hotpatch.elf.file import ElfFile
from tests.dwarf.addr2line import Place, addr2line, code_of, gdb_functions
from tests.support.compiled import run_compiler
from tests.support.programs import ROOT, build, executable

UNITS = Path(__file__).parent / "programs" / "units"
C_SOURCES = ("one.c", "two.c")
CPP_SOURCES = ("classes.cpp",)


class Build(NamedTuple):
    """How the program is compiled.

    `depth`: how deep copies are inlined. `copies`: whether addr2line finds them all; gdb does. That
    of binutils 2.40 doesn't find the ranges in clang's DWARF 5 and takes files of gcc's LTO for
    others; that of elfutils 0.188 looks for copies in one unit only.
    """

    compiler: str
    flags: tuple[str, ...]
    sources: tuple[str, ...] = C_SOURCES
    depth: int = 4
    copies: bool = True
    command: str = "addr2line"


DEAD_CODE = ("-ffunction-sections", "-Wl,--gc-sections")
BUILDS = {
    "gcc -O0": Build("gcc", ("-O0",)),
    "gcc -O2": Build("gcc", ("-O2",)),
    "gcc DWARF 4": Build("gcc", ("-O2", "-gdwarf-4")),
    "gcc DWARF 3": Build("gcc", ("-O2", "-gdwarf-3", "-gstrict-dwarf")),
    "gcc 64-bit DWARF 4": Build("gcc", ("-O2", "-gdwarf-4", "-gdwarf64")),
    "gcc sections": Build("gcc", ("-O2", *DEAD_CODE)),
    "gcc sections DWARF 4": Build("gcc", ("-O2", "-gdwarf-4", *DEAD_CODE)),
    "gcc compressed": Build("gcc", ("-O2", "-gz=zlib")),
    "gcc compressed, .zdebug": Build("gcc", ("-O2", "-gdwarf-4", "-gz=zlib-gnu")),
    "gcc LTO": Build("gcc", ("-O2", "-flto"), copies=False, command="eu-addr2line"),
    "gcc macros": Build("gcc", ("-O2", "-g3")),
    "clang -O0": Build("clang", ("-O0",), copies=False),
    "clang -O2": Build("clang", ("-O2", "-gdwarf-5"), copies=False),
    "clang sections": Build("clang", ("-O2", "-gdwarf-5", *DEAD_CODE), copies=False),
    "clang compressed": Build("clang", ("-O2", "-gdwarf-5", "-gz"), copies=False),
    "clang aranges": Build("clang", ("-O2", "-gdwarf-5", "-gdwarf-aranges"), copies=False),
    "clang DWARF 4": Build("clang", ("-O2", "-gdwarf-4")),
    "clang DWARF 4 sections": Build("clang", ("-O2", "-gdwarf-4", *DEAD_CODE)),
    "g++ -O2": Build("g++", ("-O2",), CPP_SOURCES),
    "g++ -O0": Build("g++", ("-O0", "-gdwarf-4"), CPP_SOURCES, 1),
    "g++ DWARF 4": Build("g++", ("-O2", "-gdwarf-4"), CPP_SOURCES),
    "clang++ -O2": Build("clang++", ("-O2", "-gdwarf-5"), CPP_SOURCES, 3, copies=False),
    "clang++ DWARF 4": Build("clang++", ("-O2", "-gdwarf-4"), CPP_SOURCES, 3),
}


def compile_to(path: Path, build: Build, *flags: str) -> str:
    if not shutil.which(build.compiler):
        pytest.skip(f"no {build.compiler}")
    sources = [UNITS / name for name in build.sources]
    run_compiler(build.compiler, "-g", *build.flags, *flags, *sources, "-o", path)
    return os.fspath(path)


def covered(path: str, step: int) -> list[int]:
    """Return every `step`-th address of code, but for the padding between functions.

    Of that, addr2line asks the symbols.
    """
    elf = ElfFile.open(path)
    ranges = [(s.value, s.value + s.size) for s in elf.symbols.functions()]
    return [pc for pc in code_of(path, step) if any(start <= pc < end for start, end in ranges)]


def places(found: tuple[Position, ...]) -> list[Place]:
    return [Place(p.function, os.path.normpath(p.file) if p.file else "", p.line) for p in found]


def compare(path: str, step: int, build: Build = BUILDS["gcc -O2"], of: str = "") -> int:
    """Compare a program, and return how deep copies are inlined in it.

    `of`: its debug file, if our look-ups are to be of that.
    """
    lines, addresses = SourceLines.of_file(ElfFile.open(of or path)), covered(path, step)
    found = {pc: lines.at(pc) for pc in addresses}
    for pc, theirs in zip(addresses, addr2line(path, addresses, build.command), strict=True):
        ours = places(found[pc])
        if not ours:  # no debug information, as of what comes with the C library
            assert not any(place.line for place in theirs), hex(pc)
        elif build.copies:
            assert ours == theirs, hex(pc)
        else:
            assert (ours[0].file, ours[0].line) == theirs[0][1:], hex(pc)
            symbol = theirs[-1].function.partition(".lto_priv")[0]
            assert ours[-1].function == symbol, hex(pc)
    for pc, names in zip(addresses, gdb_functions(path, addresses), strict=True):
        plain = [name.partition("(")[0] for name in names]  # C++'s "main(int, char**)"
        assert [p.function for p in found[pc]] == plain, hex(pc)
        assert not plain or [p.inlined for p in found[pc]] == [True] * (len(plain) - 1) + [False]
    assert sum(map(bool, found.values())) > len(addresses) / 2
    return max(map(len, found.values()))


@pytest.mark.parametrize("name", BUILDS)
def test_every_position_is_as_addr2line_and_gdb_have_it(tmp_path: Path, name: str) -> None:
    path = compile_to(tmp_path / "program", BUILDS[name])
    assert compare(path, 1, BUILDS[name]) >= BUILDS[name].depth


@pytest.mark.parametrize("name", ["web-v1", "web-v4", "kv-v1", "prefork-v1", "forty"])
def test_the_sample_servers(name: str) -> None:
    assert compare(str(build(ROOT / "targets") / name), 7) > 1


def test_statics_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    path = compile_to(tmp_path / "program", BUILDS["gcc -O2"])
    elf = ElfFile.open(path)
    lines = SourceLines.of_file(elf)
    files = {lines.at(symbol.value)[-1].file for symbol in elf.symbols.by_name("same")}
    assert files == {str(UNITS / name) for name in C_SOURCES}


def test_units_without_aranges_are_found_beside_those_that_have_them(tmp_path: Path) -> None:
    """gcc writes .debug_aranges, clang doesn't: of a program of both, it tells half."""
    objects = []
    for compiler, name in zip(("gcc", "clang"), C_SOURCES, strict=True):
        objects.append(tmp_path / f"{compiler}.o")
        run_compiler(compiler, "-O2", "-g", "-gdwarf-4", "-c", UNITS / name, "-o", objects[-1])
    run_compiler("gcc", *objects, "-o", tmp_path / "program")
    assert compare(str(tmp_path / "program"), 1) >= 4


# ---- where debug information is ----


def test_a_separate_debug_file(tmp_path: Path) -> None:
    path = compile_to(tmp_path / "program", BUILDS["gcc -O2"])
    whole = str(tmp_path / "whole")
    shutil.copy(path, whole)
    debug = str(tmp_path / "program.debug")
    subprocess.run(["objcopy", "--only-keep-debug", path, debug], check=True)
    subprocess.run(["objcopy", "-g", f"--add-gnu-debuglink={debug}", path], check=True)
    elf, asked = ElfFile.open(path), list[str]()

    def find() -> ElfFile:
        found = find_debug_file(path, elf)
        assert found is not None
        asked.append(found)
        return ElfFile.open(found)

    lines, expected = SourceLines.of_file(elf, find), SourceLines.of_file(ElfFile.open(whole))
    for pc in code_of(whole, 1):
        assert lines.at(pc) == expected.at(pc)
    assert asked == [debug]
    assert compare(whole, 1, of=debug) >= 4


def test_a_stripped_program_has_no_positions(tmp_path: Path) -> None:
    path = compile_to(tmp_path / "program", BUILDS["gcc -O2"], "-s")
    asked = list[None]()
    elf = ElfFile.open(path)
    lines = SourceLines.of_file(elf, lambda: asked.append(None))
    assert lines.at(elf.entry) == ()
    assert lines.at(elf.entry) == ()
    assert len(asked) == 1


@pytest.mark.parametrize("pc", [0, 1, 0x100, 1 << 40, (1 << 64) - 1])
def test_what_is_no_code_has_no_position(pc: int) -> None:
    assert SourceLines.of_file(ElfFile.open(executable("simple"))).at(pc) == ()


def test_a_file_without_section_headers_has_no_positions(tmp_path: Path) -> None:
    path = compile_to(tmp_path / "program", BUILDS["gcc -O2"])
    content = bytearray(Path(path).read_bytes())
    struct.pack_into("<Q", content, 40, 1 << 40)  # e_shoff
    elf = ElfFile.open(path)
    assert SourceLines.of_file(elf).at(elf.entry) == SourceLines.of_file(elf).at(elf.entry)
    assert SourceLines.of_file(ElfFile.from_bytes(bytes(content))).at(elf.entry) == ()


def test_assembler_sources_have_lines_without_functions(tmp_path: Path) -> None:
    source = tmp_path / "source.S"
    source.write_text(".globl main\nmain:\nnop\nnop\nret\n")
    path = tmp_path / "program"
    run_compiler("gcc", "-g", source, "-o", path)
    elf = ElfFile.open(str(path))
    (symbol,) = elf.symbols.by_name("main")
    lines = SourceLines.of_file(elf)
    assert [place.line for place in addr2line(str(path), [symbol.value + 1])[0]] == [4]
    (position,) = lines.at(symbol.value + 1)
    assert (position.file, position.line, position.inlined) == (str(source), 4, False)


def test_a_compression_that_is_not_known_is_refused(tmp_path: Path) -> None:
    def change(kind: int) -> Callable[[], tuple[Position, ...]]:
        content = bytearray(Path(path).read_bytes())
        struct.pack_into("<I", content, section.offset, kind)  # ch_type
        return lambda: SourceLines.of_file(ElfFile.from_bytes(bytes(content))).at(elf.entry)

    path = compile_to(tmp_path / "program", BUILDS["gcc compressed"])
    elf = ElfFile.open(path)
    (section,) = (s for s in elf.sections if s.name == ".debug_info")
    with pytest.raises(DwarfError, match="zstd"):
        change(2)()
    with pytest.raises(DwarfError, match="in way 77"):
        change(77)()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What compilers make of many functions, every one of them redirected and run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotpatch.arch.code import ENDBR64
from hotpatch.redirect.displace import displace
from hotpatch.redirect.entry import Entry
from tests.redirect.executable import peek, perform, word
from tests.redirect.libraries import (
    Library,
    Redirected,
    compile_across_pages,
    compile_library,
)
from tests.redirect.meaning import meaning, moved_meaning

SELFTEST = 374084532478119620

FLAGS = {
    "plain": (),
    "cet": ("-fcf-protection=full",),
    "sled": ("-fpatchable-function-entry=8",),
    "cet and sled": ("-fcf-protection=full", "-fpatchable-function-entry=8,2"),
    "unaligned": ("-falign-functions=1", "-fomit-frame-pointer"),
    "no red zone": ("-mno-red-zone", "-fno-plt"),
}
BUILDS = [
    pytest.param(compiler, (level, *flags), id=f"{compiler}{level} {name}",
                 marks=[] if level in ("-O0", "-O2", "-Os") else [pytest.mark.sweep])
    for compiler in ("gcc", "clang")
    for level in ("-O0", "-O1", "-O2", "-O3", "-Os")
    for name, flags in FLAGS.items()
]  # fmt: skip


@pytest.mark.parametrize(("compiler", "flags"), BUILDS)
def test_every_function_works_behind_its_gate(
    tmp_path: Path, compiler: str, flags: tuple[str, ...]
) -> None:
    library = Library(compile_library(tmp_path, compiler, *flags))
    before = library.text()
    redirected = Redirected(library)
    check_refusals(library, redirected)
    for entry in redirected.entries:
        check_meaning(library, entry)
    for entry, gate in zip(redirected.entries, redirected.gates, strict=True):
        perform(entry.arm_writes(gate.address))
    assert library.selftest() == SELFTEST
    assert set(redirected.counts().values()) == {0}
    word(redirected.switch).value = 1
    assert library.selftest() == SELFTEST
    assert [name for name, count in redirected.counts().items() if count == 0] == []
    word(redirected.switch).value = 0
    for entry in redirected.entries:
        perform(entry.disarm_writes())
    assert library.text() == before
    assert library.selftest() == SELFTEST


def check_refusals(library: Library, redirected: Redirected) -> None:
    """Check with another way of looking that the reason of each refusal is true."""
    assert len(redirected.refused) <= len(redirected.entries) // 3
    for name, reason in redirected.refused.items():
        value, size = library.sizes[name]
        start = library.bias + value
        if "shorter than a jump" in reason:
            assert size < (9 if peek(start, size).startswith(ENDBR64) else 5)
            assert meaning(peek(start + size, 16), start + size)[0][0] not in ("nop", "int3")
        else:
            targets = {m[1] for m in meaning(peek(start, size), start) if m[0][0] == "j"}
            assert "branches into the bytes" in reason
            assert targets & {hex(start + n) for n in range(1, 9)}


def check_meaning(library: Library, entry: Entry) -> None:
    """Check that the moved code is the code that it was moved from."""
    there = entry.jump + 0x100000
    moved = displace(entry.displaced, there, entry.resume, entry.entries)
    end = entry.displaced[-1].instruction.end
    # What leads to the function's front leads to that of the moved code.
    aliases = dict.fromkeys(entry.entries, there)
    expected = meaning(peek(entry.start, end - entry.start), entry.start, aliases)
    if entry.resume is not None and expected[-1][0] != "call":
        expected.append(("jmp", hex(entry.resume)))
    assert moved_meaning(moved, there, {})[: len(expected)] == expected
    assert entry.resume in (end, None)


@pytest.mark.parametrize("compiler", ["gcc"])
def test_profiling_calls_see_where_they_were_called_from(tmp_path: Path, compiler: str) -> None:
    library = Library(compile_library(tmp_path, compiler, "-O2", "-pg", "-mfentry", "-DFENTRY"))
    called_from = library.variable("called_from")
    called_from.value = 0
    assert library.selftest() == SELFTEST
    expected = called_from.value
    redirected = Redirected(library)
    assert redirected.refused == {}
    for entry, gate in zip(redirected.entries, redirected.gates, strict=True):
        assert entry.displaced[0].kind == "call"
        perform(entry.arm_writes(gate.address))
    for switch in (0, 1):
        word(redirected.switch).value = switch
        called_from.value = 0
        assert library.selftest() == SELFTEST
        assert called_from.value == expected


def check_page_refusals(redirected: Redirected, level: str, room_before_padding: int) -> None:
    """Check that only what can't be redirected across pages is refused."""
    for reason in redirected.refused.values():
        assert "its first bytes cross a page boundary" in reason or "shorter than a jump" in reason
    if room_before_padding > 1:
        # It is the first of its section: what lies before it is not known to be padding.
        assert set(redirected.refused) <= {"unlikely"}
    elif level == "-O0":
        # Behind the frame of `nothing` there is no room for the jump.
        assert set(redirected.refused) <= {"unlikely", "nothing"}


@pytest.mark.parametrize("room", [1, 2, 3, 4])
@pytest.mark.parametrize("fill", [0xCC, 0xF4], ids=["padding", "no padding"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_functions_across_pages_work_after_every_write(
    tmp_path: Path, compiler: str, level: str, room: int, fill: int
) -> None:
    path = compile_across_pages(tmp_path, compiler, room, fill, level)
    library = Library(path)
    before = library.text()
    redirected = Redirected(library)
    assert {f.address % 4096 for f in library.functions()} == {4096 - room}
    check_page_refusals(redirected, level, room if fill == 0xCC else 0)
    for entry, gate in zip(redirected.entries, redirected.gates, strict=True):
        for write in entry.arm_writes(gate.address):
            perform([write])
            assert library.selftest() == SELFTEST
    word(redirected.switch).value = 1
    assert library.selftest() == SELFTEST
    assert [name for name, count in redirected.counts().items() if count == 0] == []
    word(redirected.switch).value = 0
    for entry in redirected.entries:
        for write in entry.disarm_writes():
            perform([write])
            assert library.selftest() == SELFTEST
    assert library.text() == before

# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding without the package `capstone` is decoding as with it, or not done at all."""

from __future__ import annotations

from collections.abc import Iterator

import capstone
import pytest

from hotpatch.arch import disassembler, libcapstone

MOST = 400_000  # bytes of code


@pytest.fixture
def fresh() -> Iterator[None]:
    """Whatever decoder was chosen is chosen again."""
    disassembler._decoder.cache_clear()
    yield
    disassembler._decoder.cache_clear()


def code() -> bytes:
    """Most of the code in the largest file that this process runs, and bytes that are none."""
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if " r-xp " in line and "/" in line]
    sizes = [
        int(end, 16) - int(start, 16)
        for start, _, end in (line[0].partition("-") for line in lines)
    ]
    size, line = max(zip(sizes, lines, strict=True))
    with open(line[-1], "rb") as file:
        file.seek(int(line[2], 16))
        return file.read(min(size, MOST))


def test_it_says_what_the_package_says() -> None:
    engine = libcapstone.open_engine()
    assert engine is not None
    package = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    text, at, compared = code(), 0, 0
    while at < len(text):
        expected = list(package.disasm_lite(text[at:], 0x1000 + at))
        assert engine.disasm_lite(text[at:], 0x1000 + at) == expected
        compared += len(expected)
        at += sum(size for _, size, _, _ in expected) + 1  # on behind what is no instruction
        if compared > 50_000:
            break
    assert compared > 50_000


@pytest.mark.parametrize("count", [1, 2, 3])
def test_count(count: int) -> None:
    engine = libcapstone.open_engine()
    assert engine is not None
    assert len(engine.disasm_lite(b"\x90\x90\xc3", 0, count)) == count


def test_bytes_that_are_no_instruction() -> None:
    engine = libcapstone.open_engine()
    assert engine is not None
    assert engine.disasm_lite(b"\x06", 0) == []
    assert engine.disasm_lite(b"", 0) == []


@pytest.mark.usefixtures("fresh")
def test_the_package_where_the_library_has_another_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libcapstone, "_MAJOR", 99)
    assert libcapstone.open_engine() is None
    (instruction,) = disassembler.decode(b"\xc3", 0x1000)
    assert str(instruction) == "0x1000: c3  ret"


@pytest.mark.usefixtures("fresh")
def test_the_package_where_the_user_says_which_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBCAPSTONE_PATH", "/nowhere")
    assert libcapstone.open_engine() is None
    assert len(disassembler.decode(b"\x90\xc3", 0)) == 2

# SPDX-License-Identifier: GPL-2.0-or-later
"""Every function of the C library is planned, and its moved code means what it meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.errors import Refused
from hotpatch.redirect.displace import displace
from hotpatch.redirect.entry import Function, Stretch, plan_entry
from hotpatch.redirect.gate import Door, build_gate
from tests.redirect.meaning import meaning, moved_meaning

LIBRARIES = sorted(map(str, Path("/lib/x86_64-linux-gnu").glob("lib[cm].so.6")))


def functions(elf: ElfFile) -> list[Function]:
    """Return the functions of a library, with the gaps beside them."""
    symbols = sorted({(s.value, s.size): s for s in elf.symbols.functions() if s.size}.values(),
                     key=lambda s: (s.value, s.size))  # fmt: skip
    result = []
    for before, symbol, after in zip(symbols, symbols[1:], symbols[2:], strict=False):
        gaps = [
            (before.value + before.size, symbol.value),
            (symbol.value + symbol.size, after.value),
        ]
        stretches = [Stretch(a, elf.read(a, b - a)) for a, b in gaps if 0 < b - a < 64]
        code = elf.read(symbol.value, symbol.size)
        read = reader(elf)
        result.append(Function(symbol.name, symbol.value, code, tuple(stretches), read=read))
    return result


def reader(elf: ElfFile):  # type: ignore[no-untyped-def]
    def read(address: int, size: int) -> bytes:
        try:
            return elf.read(address, size)
        except ElfError as error:
            raise OSError(str(error)) from error

    return read


@pytest.mark.sweep
@pytest.mark.parametrize("path", LIBRARIES)
def test_every_function_of_a_library(path: str) -> None:
    found = functions(ElfFile.open(path))
    refused = []
    for function in found:
        try:
            entry = plan_entry(function)
        except Refused as refusal:
            refused.append(refusal.reason)
            continue
        gate = build_gate(entry, 0x20000000, 0x20100000, 0x20200000, Door(0x20300010, 0x20300000))
        there = gate.original
        moved = displace(entry.displaced, there, entry.resume, entry.entries)
        assert moved in gate.code
        end = entry.displaced[-1].instruction.end
        code = function.code + b"".join(g.data for g in function.gaps if g.address == function.end)
        original = code[entry.start - function.address : end - function.address]
        expected = meaning(original, entry.start, dict.fromkeys(entry.entries, there))
        assert moved_meaning(moved, there, {})[: len(expected)] == expected
    # Stubs of three bytes, beside each other without padding, and loops like countformat's.
    assert len(refused) < len(found) // 100, refused

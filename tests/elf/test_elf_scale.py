# SPDX-License-Identifier: GPL-2.0-or-later
"""A library of 250,000 functions is answered rightly (how fast: bench/symbols.py)."""

from __future__ import annotations

import elf_samples
import pytest

from hotpatch.elf.file import ElfFile

COUNT = 250_000


@pytest.fixture(scope="module")
def elf(sample_directory: str) -> ElfFile:
    source = "".join(
        f".globl f{n}\n.type f{n},@function\n.size f{n},1\nf{n}: ret\n" for n in range(COUNT)
    )
    path = elf_samples.compile_c(sample_directory, "many.s", source, "-shared", "-nostdlib")
    return ElfFile.open(path)


def test_each_of_many_functions_is_listed_once(elf: ElfFile) -> None:
    functions = elf.symbols.functions()
    assert {s.name for s in functions} == {f"f{n}" for n in range(COUNT)}
    assert len(functions) == COUNT
    assert sorted(functions, key=lambda s: s.value) == sorted(
        functions, key=lambda s: int(s.name[1:])
    )


@pytest.mark.parametrize("number", [0, 1, 99_999, COUNT - 1])
def test_each_of_many_functions_is_found(elf: ElfFile, number: int) -> None:
    (symbol,) = elf.symbols.by_name(f"f{number}")
    assert elf.symbols.at(symbol.value) == symbol
    assert elf.dynamic_symbols.by_name(f"f{number}") == [symbol]


def test_name_that_no_function_has_is_not_found_among_many(elf: ElfFile) -> None:
    assert elf.symbols.by_name(f"f{COUNT}") == []
    assert elf.symbols.at(0) is None


def test_one_name_is_found_without_looking_at_the_others(sample_directory: str) -> None:
    elf = ElfFile.open(f"{sample_directory}/many.s.out")
    elf.symbols.by_name("f77777")
    for section in elf.symbols._sections:
        columns = {"name_offsets", "values", "sizes", "types", "binds", "sections"}
        assert not columns & section.columns.__dict__.keys()

# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the symbols of a large file take, against pyelftools on the same file in the same run.

    python bench/symbols.py [FILE]

Without FILE, a shared library of 250,000 functions with names as C++ makes them is built (gcc) in
a temporary directory. Each line is one question, asked of a newly opened file.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from elftools.elf.elffile import ELFFile

from hotpatch.elf.file import ElfFile

COUNT = 250_000
ROUNDS = 3


def build(directory: str, count: int) -> str:
    """Assemble and link a library of `count` functions of one byte; return its path."""
    source, library = f"{directory}/many.s", f"{directory}/many.so"
    with open(source, "w") as file:
        for number in range(count):
            name = f"_ZN7library6detail8functionILi{number}EEEvv"
            file.write(f".globl {name}\n.type {name},@function\n.size {name},1\n{name}: ret\n")
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", library, source], check=True)
    return library


def theirs(path: str, question: Callable[[ELFFile], Any]) -> Any:
    """Ask pyelftools."""
    with open(path, "rb") as file:
        return question(ELFFile(file))


def ours(path: str, question: Callable[[ElfFile], Any]) -> Any:
    """Ask hotpatch."""
    elf = ElfFile.open(path)
    try:
        return question(elf)
    finally:
        elf.close()


def _symbols(elf: ELFFile) -> Iterator[Any]:
    return iter(elf.get_section_by_name(".symtab").iter_symbols())


def _their_functions(elf: ELFFile) -> int:
    return sum(
        s["st_info"]["type"] == "STT_FUNC" and s["st_shndx"] != "SHN_UNDEF" for s in _symbols(elf)
    )


def _their_at(elf: ELFFile, vaddr: int) -> str:
    rows = sorted((s["st_value"], s.name) for s in _symbols(elf) if s["st_size"])
    return rows[bisect_right(rows, (vaddr, "\uffff")) - 1][1]


def _their_name(elf: ELFFile, name: str) -> int:
    return elf.get_section_by_name(".symtab").get_symbol_by_name(name)[0]["st_value"]


def _seconds(ask: Callable[[], Any]) -> tuple[float, Any]:
    best, answer = float("inf"), None
    for _ in range(ROUNDS):
        gc.collect()
        start = time.perf_counter()
        answer = ask()
        best = min(best, time.perf_counter() - start)
    return best, answer


def compare(path: str) -> None:
    """Print a line for each question; the answers must agree."""
    functions = ours(path, lambda elf: elf.symbols.functions())
    middle = functions[len(functions) // 2]
    print(f"{path}: {len(functions)} functions")
    print(f"{'':12} {'hotpatch':>10} {'pyelftools':>10} {'ratio':>8}")
    for title, our, their in (
        ("open", lambda e: e.type != 0, lambda e: e["e_type"] != 0),
        ("by_name", lambda e: e.symbols.by_name(middle.name)[0].value,
         lambda e: _their_name(e, middle.name)),
        ("at", lambda e: e.symbols.at(middle.value).name, lambda e: _their_at(e, middle.value)),
        ("functions", lambda e: len(e.symbols.functions()), _their_functions),
    ):  # fmt: skip
        fast, answer = _seconds(lambda our=our: ours(path, our))
        slow, expected = _seconds(lambda their=their: theirs(path, their))
        verdict = "" if answer == expected else f"   DIFFERS: {answer} {expected}"
        print(f"{title:12} {fast * 1e3:7.1f} ms {slow * 1e3:7.1f} ms {slow / fast:7.0f}x{verdict}")


def main() -> None:
    """Compare on the file of the command line, or on a library built for it."""
    if len(sys.argv) > 1:
        compare(sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as directory:
        compare(build(directory, COUNT))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared libraries compiled from prologues.c and loaded into the test process."""

from __future__ import annotations

import ctypes
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hotpatch.elf.file import ElfFile
from hotpatch.errors import Refused
from hotpatch.redirect.entry import Entry, Function, Stretch, plan_entry
from hotpatch.redirect.gate import GateCode, build_gate, gate_size
from tests.redirect.executable import Arena, make_writable, peek, poke

SOURCE = Path(__file__).parent / "programs" / "prologues.c"
# Of the C runtime, not of the source.
RUNTIME = re.compile(r"_init|_fini|.*tm_clones|frame_dummy|__do_global.*|__fentry__|_dl.*")


def compile_library(directory: Path, compiler: str, *flags: str) -> Path:
    """Compile the functions; skips where the compiler is missing."""
    return _run(directory, compiler, *flags, str(SOURCE))


def compile_across_pages(directory: Path, compiler: str, room: int, fill: int, *flags: str) -> Path:
    """Compile with `room` bytes of each function before a page boundary, `fill` between them."""
    assembly = _run(directory, compiler, "-S", *flags, str(SOURCE), output="functions.s")
    text = re.sub(
        r"(?m)^(\w+):(?=.*\n(?:\.L.*:\n)?\s*\.cfi_startproc)",
        rf"\t.balign 4096, {fill}\n\t.skip {4096 - room}, {fill}\n\1:",
        assembly.read_text(),
    )
    assembly.write_text(text)
    return _run(directory, compiler, str(assembly))


def _run(directory: Path, compiler: str, *arguments: str, output: str = "functions.so") -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")
    command = [compiler, "-w", "-fPIC", "-shared", *arguments, "-o", output]
    subprocess.run(command, cwd=directory, check=True)
    return directory / output


class Library:
    """A loaded library whose functions can be redirected, in this process."""

    def __init__(self, path: Path) -> None:
        self._dll = ctypes.CDLL(str(path))
        self._dll.selftest.restype = ctypes.c_int64
        elf = ElfFile.open(str(path))
        self.sizes = {s.name: (s.value, s.size) for s in elf.symbols.functions() if s.size}
        place = ctypes.cast(self._dll.selftest, ctypes.c_void_p).value
        assert place is not None
        self.bias = place - self.sizes["selftest"][0]
        self._text = range(
            min(value for value, _ in self.sizes.values()),
            max(value + size for value, size in self.sizes.values()),
        )
        make_writable(self.bias + self._text.start, self.bias + self._text.stop)
        self._symbols = sorted({v: max(w for x, w in self.sizes.values() if x == v)
                                for v, _ in self.sizes.values()}.items())  # fmt: skip

    def selftest(self) -> int:
        return int(self._dll.selftest())

    def variable(self, name: str) -> ctypes.c_int64:
        return ctypes.c_int64.in_dll(self._dll, name)

    def text(self) -> bytes:
        return peek(self.bias + self._text.start, len(self._text))

    def functions(self) -> list[Function]:
        names = [name for name in self.sizes if "." not in name and not RUNTIME.fullmatch(name)]
        return [self._function(name) for name in names]

    def _function(self, name: str) -> Function:
        value, size = self.sizes[name]
        fragments = [self.sizes[n] for n in self.sizes if n.startswith(name + ".")]
        return Function(
            name,
            self.bias + value,
            peek(self.bias + value, size),
            tuple(self._gaps(value)),
            tuple(Stretch(self.bias + v, peek(self.bias + v, s)) for v, s in fragments),
            read=peek_mapped,
        )

    def _gaps(self, value: int) -> list[Stretch]:
        (index,) = [i for i, (v, _) in enumerate(self._symbols) if v == value]
        around = self._symbols[max(index - 1, 0) : index + 2]
        gaps = []
        for (before, size), (after, _) in itertools.pairwise(around):
            start = self.bias + before + size
            gaps.append(Stretch(start, peek(start, self.bias + after - start)))
        return gaps


def peek_mapped(address: int, size: int) -> bytes:
    """Read memory of this process that may not be mapped."""
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)


class Redirected:
    """The functions of a library behind gates whose replacements count and call the original."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.refused: dict[str, str] = {}
        self.entries: list[Entry] = []
        for function in library.functions():
            try:
                claimed = [claim for entry in self.entries for claim in entry.claims]
                self.entries.append(plan_entry(function, claimed))
            except Refused as refusal:
                self.refused[function.name] = refusal.reason
        self.arena = _arena_near(library.bias)
        self.switch = self.arena.address
        self._counters = self.arena.address + 0x1000
        self.gates = self._build()

    def _build(self) -> list[GateCode]:
        gates, at = [], self.arena.address + 0x10000
        for number, entry in enumerate(self.entries):
            new = self.arena.address + 0x8000 + 32 * number
            gate = build_gate(entry, at, self.switch, new, self.arena.door)
            at += gate_size(entry)
            poke(gate.address, gate.code)
            count, original = self._counters + 8 * number, gate.original
            text = "lock inc qword ptr [rip + count]; jmp original"
            self.arena.put(new, text, count=count, original=original)
            gates.append(gate)
        return gates

    def counts(self) -> dict[str, int]:
        counters = (ctypes.c_int64 * len(self.entries)).from_address(self._counters)
        return {entry.name: count for entry, count in zip(self.entries, counters, strict=True)}


def _arena_near(address: int) -> Arena:
    for distance in range(1, 1000):
        try:
            return Arena((address & -(1 << 20)) - (distance << 20))
        except OSError:
            continue
    raise AssertionError("no room near the library")

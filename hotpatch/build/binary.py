# SPDX-License-Identifier: GPL-2.0-or-later
"""The binary that a patch is made for, as its file says it will lie in memory: `Binary`."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import cached_property

from hotpatch.arch import relocations as r
from hotpatch.elf import constants as c
from hotpatch.elf.debuglink import find_debug_file
from hotpatch.elf.file import ElfFile
from hotpatch.elf.symbols import Symbol

_LOADED = (c.STT_FUNC, c.STT_OBJECT, c.STT_NOTYPE, c.STT_GNU_IFUNC, c.STT_TLS)


class Binary:
    """An executable or a shared library, with its separate debug file if there is one."""

    def __init__(self, path: str) -> None:
        """Open the file at `path`; raises ElfError and OSError."""
        self.path = path
        self.elf = ElfFile.open(path)
        found = find_debug_file(path, self.elf)
        self.debug = ElfFile.open(found) if found else None

    @property
    def build_id(self) -> str:
        """Return its build-id in hexadecimal, "" without."""
        return (self.elf.build_id or b"").hex()

    @property
    def program(self) -> bool:
        """Tell whether it is a program, not a library."""
        flags = self.elf.dynamic.get(c.DT_FLAGS_1, [0])[0]
        interpreted = any(segment.type == c.PT_INTERP for segment in self.elf.segments)
        return self.elf.type == c.ET_EXEC or bool(flags & c.DF_1_PIE) or interpreted

    @cached_property
    def symbols(self) -> dict[str, list[Symbol]]:
        """What it defines, by name, of all symbol tables that there are; each address once."""
        found: dict[str, dict[int, Symbol]] = {}
        for elf in filter(None, (self.elf, self.debug)):
            for symbol in elf.symbols:
                if symbol.section != c.SHN_UNDEF and symbol.type in _LOADED and symbol.name:
                    found.setdefault(symbol.name, {}).setdefault(symbol.value, symbol)
        return {name: list(same.values()) for name, same in found.items()}

    @cached_property
    def functions(self) -> dict[int, set[str]]:
        """The names of its functions, less their versions, by address."""
        found: dict[int, set[str]] = {}
        for name, same in self.symbols.items():
            for symbol in same:
                if symbol.type in (c.STT_FUNC, c.STT_GNU_IFUNC):
                    found.setdefault(symbol.value, set()).add(name.partition("@")[0])
        return found

    @cached_property
    def imported(self) -> frozenset[str]:
        """The names of what it has of libraries."""
        undefined = self.elf.dynamic_symbols.undefined() if self.elf.dynamic else []
        return frozenset(symbol.name for symbol in undefined)

    @cached_property
    def exported(self) -> frozenset[str]:
        """The names of what others find in it."""
        symbols = self.elf.dynamic_symbols if self.elf.dynamic else ()
        return frozenset(s.name for s in symbols if s.section != c.SHN_UNDEF)

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes at a virtual address; ElfError where there is nothing."""
        return self.elf.read(address, size)

    def holds(self, address: int, size: int) -> bool:
        """Tell whether there is memory of the file's at a virtual address."""
        return any(
            s.type == c.PT_LOAD and s.vaddr <= address and address + size <= s.vaddr + s.memsz
            for s in self.elf.segments
        )

    @cached_property
    def code(self) -> tuple[tuple[int, bytes], ...]:
        """The executable segments: virtual address and content."""
        return tuple(
            (segment.vaddr, self.read(segment.vaddr, segment.filesz))
            for segment in self.elf.segments
            if segment.type == c.PT_LOAD and segment.flags & c.PF_X
        )

    def find_code(self, needle: bytes) -> Iterator[int]:
        """Yield the virtual addresses at which the code has these bytes."""
        for start, content in self.code:
            at = content.find(needle)
            while at >= 0:
                yield start + at
                at = content.find(needle, at + 1)

    def users(self, place: range) -> Iterator[int]:
        """Yield the addresses of fields that may refer to a place: in code, and pointers in data.

        In code that is every field of 32 bits that would be the distance to it, whatever it is.
        """
        for start, content in self.code:
            for shift in range(4):
                words = array("i", content[shift : shift + (len(content) - shift) // 4 * 4])
                at = start + shift + 4
                for word in words:
                    if at + word in place:
                        yield at - 4
                    at += 4
        for offset, (type_, _, addend) in self._relocations.items():
            if type_ == r.R_X86_64_RELATIVE:
                target = self._word(offset) if addend is None else addend
                if target in place:
                    yield offset

    def pointer(self, address: int) -> int | None:
        """Return the virtual address that a slot will point to, None for what others define."""
        relocation = self._relocations.get(address)
        if relocation is None:
            return None if self.elf.type == c.ET_DYN else self._word(address)
        type_, symbol_index, addend = relocation
        if type_ == r.R_X86_64_RELATIVE:
            return self._word(address) if addend is None else addend
        symbol = self.elf.dynamic_symbols[symbol_index]
        return symbol.value + (addend or 0) if symbol.section != c.SHN_UNDEF else None

    def thread_offset(self, address: int) -> int | None:
        """Return which offset of its thread-local block a slot stands for, None for another's."""
        relocation = self._relocations.get(address)
        if relocation is None:
            return None
        type_, symbol_index, addend = relocation
        symbol = self.elf.dynamic_symbols[symbol_index] if symbol_index else None
        if symbol is not None and symbol.section == c.SHN_UNDEF:
            return None
        known = symbol.value if symbol else 0
        if type_ in (r.R_X86_64_TLSDESC, r.R_X86_64_TPOFF64):
            return known + (addend or 0)
        if type_ != r.R_X86_64_DTPMOD64:
            return None
        # The linker has filled in the offset itself, of a variable that no other can see.
        return known if symbol_index else self._word(address + 8)

    def _word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    @cached_property
    def _relocations(self) -> dict[int, tuple[int, int, int | None]]:
        return {x.offset: (x.type, x.symbol_index, x.addend) for x in self.elf.relocations}

    @cached_property
    def thread_block(self) -> int:
        """The distance from the thread pointer down to the program's thread-local block.

        Variant II of "ELF Handling for Thread-Local Storage": the block ends at the pointer.
        """
        segment = self.elf.tls
        if segment is None:
            return 0
        align = max(segment.align, 1)
        return segment.memsz + (-segment.vaddr - segment.memsz) % align

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which implementation an indirect function of the target was resolved to.

An indirect function (STT_GNU_IFUNC: memcpy, strlen) is chosen by a resolver at load time. It
can't be run before the commit, and need not be: the dynamic linker, or the start-up code of a
static program, ran it long ago and left the answer in some slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from hotpatch.arch import relocations as r
from hotpatch.elf import constants as c
from hotpatch.link.target import Definition, Module, Process, word

if TYPE_CHECKING:
    from hotpatch.elf.relocations import Relocation
    from hotpatch.elf.symbols import Symbol


def resolved(process: Process, function: Definition) -> int | None:
    """Return the address that an indirect `function` stands for in the target, None if unknown."""
    for module, relocation in chain(_own_slots(function), _slots_by_name(process, function)):
        value = word(process, module.bias + relocation.offset)
        # Until it is bound a slot leads to its PLT entry, as it does in the file.
        stored = int.from_bytes(module.elf.read(relocation.offset, 8), "little")
        unbound = stored != 0 and value in (stored, stored + module.bias)
        if not unbound and _is_code_of(function.module, value - function.module.bias):
            return value
    return None


def _own_slots(function: Definition) -> Iterator[tuple[Module, Relocation]]:
    """Return the slots of the defining module that its resolver filled (R_X86_64_IRELATIVE)."""
    for relocation in function.module.elf.relocations:
        if relocation.type == r.R_X86_64_IRELATIVE and relocation.addend == function.symbol.value:
            yield function.module, relocation


def _slots_by_name(process: Process, function: Definition) -> Iterator[tuple[Module, Relocation]]:
    """Return the slots of all modules that refer to the function by name."""
    for module in process.modules:
        wanted = _dynamic_indices(module, function)
        if not wanted:
            continue
        for relocation in module.elf.relocations:
            if relocation.symbol_index in wanted and _holds_pointer(relocation):
                yield module, relocation


def _holds_pointer(relocation: Relocation) -> bool:
    return relocation.type in r.FUNCTION_POINTER_TYPES and not relocation.addend


def _dynamic_indices(module: Module, function: Definition) -> set[int]:
    """Return by which indices of its .dynsym a module's relocations refer to `function`."""
    symbols = module.elf.dynamic_symbols
    rows = symbols.rows(function.symbol.name)
    return {row for row in rows if _means(symbols[row], module, function)}


def _means(symbol: Symbol, module: Module, function: Definition) -> bool:
    """Tell whether a module's own entry refers to `function`, in the same version."""
    wanted = function.symbol.version
    if symbol.version and wanted and symbol.version != wanted:
        return False
    return symbol.section == c.SHN_UNDEF or module is function.module


def _is_code_of(module: Module, value: int) -> bool:
    return any(
        segment.type == c.PT_LOAD
        and segment.flags & c.PF_X
        and 0 <= value - segment.vaddr < segment.memsz
        for segment in module.elf.segments
    )

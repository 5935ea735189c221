# SPDX-License-Identifier: GPL-2.0-or-later
"""Variables of a patch that the target has too, so that there are two of them.

A variable declared `static` in a patch is the patch's own: that is how a patch gets new state.
But in a source file of the program compiled as a whole it is a second copy of the program's
state, which the replaced functions would work on from then on. Which was meant can't be told; it is
said. (A global variable is shared instead; see `hotpatch.link.bind`.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hotpatch.elf import constants as c
from hotpatch.link import scope
from hotpatch.link.target import Module

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.elf.symbols import Symbol

_START_FILES = "crtstuff.c"
_RECORDS = "__hotpatch_record_"


def warnings(elf: ElfFile, modules: Iterable[Module]) -> list[str]:
    """Return a warning for each variable of the patch `elf` that one of `modules` has too."""
    modules = list(modules)
    names = sorted({_source_name(symbol) for symbol in elf.symbols if _is_own_state(elf, symbol)})
    return [
        f"`{name}` is a variable of the patch's own, not that of {module.path}: declare it extern "
        "in the patch if the target's is meant"
        for name in names
        for module in modules
        if _has_variable(module, name)
    ]


def _source_name(symbol: Symbol) -> str:
    """Return the name that a variable has in the source: gcc numbers those of functions."""
    name, _, number = symbol.name.rpartition(".")
    return name if name and number.isdigit() else symbol.name


def _is_own_state(elf: ElfFile, symbol: Symbol) -> bool:
    shared = symbol.bind != c.STB_LOCAL and symbol.visibility == c.STV_DEFAULT
    ours = symbol.file != _START_FILES and not symbol.name.startswith(_RECORDS)
    return ours and not shared and _is_variable(elf, symbol)


def _has_variable(module: Module, name: str) -> bool:
    found = scope.static_symbols(module, name) or scope.static_symbols(module, name, decorated=True)
    symbol = scope.global_symbol(module, name)
    return any(_is_variable(module.elf, s) for s in (*found, *([symbol] if symbol else ())))


def _is_variable(elf: ElfFile, symbol: Symbol) -> bool:
    """Tell whether a symbol is data that code may change."""
    if symbol.type != c.STT_OBJECT or not symbol.size or symbol.section == c.SHN_UNDEF:
        return False
    writable = any(
        s.type == c.PT_LOAD and s.flags & c.PF_W and 0 <= symbol.value - s.vaddr < s.memsz
        for s in elf.segments
    )
    return writable and not any(
        s.type == c.PT_GNU_RELRO and 0 <= symbol.value - s.vaddr < s.memsz for s in elf.segments
    )

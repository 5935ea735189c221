# SPDX-License-Identifier: GPL-2.0-or-later
"""The functions that run when a file is loaded and unloaded (gABI, "Initialization and
Termination Functions").

The arrays hold absolute addresses, so in a shared object each slot has a relocation, and it
is the relocation that tells the function.
"""

from __future__ import annotations

from collections.abc import Iterable

from hotpatch.arch.relocations import R_X86_64_64, R_X86_64_RELATIVE
from hotpatch.elf import constants as c
from hotpatch.elf.bulk import column
from hotpatch.elf.dynamic import Dynamic
from hotpatch.elf.relocations import Relocation
from hotpatch.elf.symbols import SymbolTable

_NONE = (0, 2**64 - 1)


def init_functions(
    dynamic: Dynamic, relocations: Iterable[Relocation], symbols: SymbolTable
) -> tuple[int, ...]:
    """Return the virtual addresses of DT_INIT and DT_INIT_ARRAY, in the order of their calls."""
    array = _array(dynamic, c.DT_INIT_ARRAY, c.DT_INIT_ARRAYSZ)
    return _function(dynamic, c.DT_INIT) + _relocated(dynamic, array, relocations, symbols)


def fini_functions(
    dynamic: Dynamic, relocations: Iterable[Relocation], symbols: SymbolTable
) -> tuple[int, ...]:
    """Return the virtual addresses of DT_FINI_ARRAY and DT_FINI, in the order of their calls."""
    array = _array(dynamic, c.DT_FINI_ARRAY, c.DT_FINI_ARRAYSZ)
    return _relocated(dynamic, array, relocations, symbols)[::-1] + _function(dynamic, c.DT_FINI)


def _function(dynamic: Dynamic, tag: int) -> tuple[int, ...]:
    address = dynamic.value(tag)
    return (address,) if address else ()


def _array(dynamic: Dynamic, tag: int, size_tag: int) -> dict[int, int]:
    """Return the words of the array by their addresses."""
    size = dynamic.value(size_tag) // 8 * 8
    if not size:
        return {}
    start = dynamic.value(tag)
    offset = dynamic.image.offset(start, size, "array of functions")
    words = column(dynamic.image.content.take(offset, size, "array of functions"), "Q")
    return dict(zip(range(start, start + size, 8), words, strict=True))


def _relocated(
    dynamic: Dynamic,
    array: dict[int, int],
    relocations: Iterable[Relocation],
    symbols: SymbolTable,
) -> tuple[int, ...]:
    for relocation in relocations if array else ():
        if relocation.offset in array:
            array[relocation.offset] = _value(dynamic, relocation, array, symbols)
    # Start-up files of old compilers begin and end these lists with -1 and 0.
    return tuple(word for word in array.values() if word not in _NONE)


def _value(
    dynamic: Dynamic, relocation: Relocation, array: dict[int, int], symbols: SymbolTable
) -> int:
    stored = array[relocation.offset]
    addend = stored if relocation.addend is None else relocation.addend
    if relocation.type == R_X86_64_RELATIVE:
        return addend & (1 << 64) - 1
    symbol = symbols[relocation.symbol_index]
    if relocation.type != R_X86_64_64 or symbol.section == c.SHN_UNDEF:
        raise dynamic.image.content.error(
            f"the function called from {relocation.offset:#x} is not in this file"
        )
    return (symbol.value + addend) & (1 << 64) - 1

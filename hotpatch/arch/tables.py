# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding where indirect jumps of a function may lead: `switch` tables and computed gotos.

Compilers write three kinds of tables: 32-bit offsets from the table itself (position-independent
`switch`), and 64-bit addresses, reached through a table address in a `lea` or as a
displacement. A loop whose `continue` is a case of its `switch` has its head in the table and maybe
in no direct branch. So every address that a function with such a jump forms is taken for a
table and searched for entries that lead to the addresses in question. An entry
found by chance (1 in 2^30 for each word) leads to a refusal, not to wrong code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hotpatch.arch.code import PAGE_SIZE
from hotpatch.arch.disassembler import Instruction, decode

_TABLE_SIZE = 4 * PAGE_SIZE  # 2,048 cases by address, 4,096 by offset
_MAPPABLE = range(PAGE_SIZE, 1 << 47)

# FF /4 with any ModRM but mod 00 r/m 101, which jumps through one fixed slot (a tail call).
_INDIRECT = re.compile(rb"\xff[\x20-\x24\x26\x27\x60-\x67\xa0-\xa7\xe0-\xe7]", re.DOTALL)
_RIP = re.compile(r"\[rip(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_INDEXED = re.compile(r"\*[48] \+ (0x[0-9a-f]+)\]")
_IMMEDIATE = re.compile(r", (0x[0-9a-f]+)$")


def table_targets(
    code: bytes, address: int, targets: range, read: Callable[[int, int], bytes]
) -> list[tuple[int, int]]:
    """Return (place, target) of the table entries and operands that lead into `targets`.

    `code` is the function at `address`; `read` gives the bytes at an address, or fewer, or raises
    OSError. Functions without an indirect jump have none and cost next to nothing.
    """
    if _INDIRECT.search(code) is None:
        return []
    found: list[tuple[int, int]] = []
    bases: set[int] = set()
    for instruction in decode(code, address):
        for formed in _addresses(instruction):
            if formed in targets and formed != address:  # its own is that of a function pointer
                found.append((instruction.address, formed))
            if formed in _MAPPABLE and not address <= formed < address + len(code):
                bases.add(formed)
    for base in sorted(bases):
        table = _read_table(base, read)
        for target in targets:
            offsets = _aligned(table, (target - base) & 0xFFFFFFFF, 4)
            if target != address:
                offsets += _aligned(table, target, 8)
            found += [(base + offset, target) for offset in offsets]
    return found


def _addresses(instruction: Instruction) -> Iterator[int]:
    """Yield the constant in an instruction that may be the address of a table or a label."""
    operands = instruction.operands
    if instruction.mnemonic == "lea" and (match := _RIP.search(operands)):
        offset = int(match[2], 0) if match[2] else 0
        yield instruction.end + (-offset if match[1] == "-" else offset)
        return
    match = _INDEXED.search(operands)
    if match is None and instruction.mnemonic in ("mov", "movabs"):
        match = _IMMEDIATE.search(operands)
    if match is not None:
        yield int(match[1], 16)


def _read_table(base: int, read: Callable[[int, int], bytes]) -> bytes:
    """Read page by page, so that a table at the end of a mapping is read too."""
    data, end = b"", base + _TABLE_SIZE
    while base + len(data) < end:
        at = base + len(data)
        try:
            piece = read(at, min(end, (at | PAGE_SIZE - 1) + 1) - at)
        except (OSError, ValueError):
            break
        if not piece:
            break
        data += piece
    return data


def _aligned(data: bytes, value: int, size: int) -> list[int]:
    """Return the offsets of the aligned words of `size` bytes that hold `value`."""
    needle, at, found = value.to_bytes(size, "little"), -1, []
    while (at := data.find(needle, at + 1)) >= 0:
        if at % size == 0:
            found.append(at)
    return found

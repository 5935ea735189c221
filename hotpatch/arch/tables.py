# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding where indirect jumps of a function may lead: `switch` tables and computed gotos.

Compilers write three kinds of tables: 32-bit offsets from the table itself (position-independent
`switch`), and 64-bit addresses, reached through a table address in a `lea` or as a
displacement. A loop whose `continue` is a case of its `switch` has its head in the table and maybe
in no direct branch. So every address that a function with such a jump forms is taken for a
table and searched for entries that lead to the addresses in question.

An offset is a small number and may be found in other data: it counts if most of the words
from the table's start to it lead into the function too. An entry found by chance leads to a
refusal, not to wrong code. Tables of differences between two labels are not understood.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from hotpatch.arch.code import PAGE_SIZE
from hotpatch.arch.disassembler import Instruction, decode

_TABLE_SIZE = 4 * PAGE_SIZE  # 2,048 cases by address, 4,096 by offset
_MAPPABLE = range(PAGE_SIZE, 1 << 47)

# FF /4 through a register, the word that it points to, or an index. Not through a fixed slot, which
# is a tail call by the GOT, nor a fixed offset from a register, which is one of a virtual function.
_INDIRECT = re.compile(
    rb"\xff(?:[\x20-\x23\x26\x27\xe0-\xe7]|\x24.|[\x64\xa4][\xc0-\xff])", re.DOTALL
)
_RIP = re.compile(r"\[rip(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_INDEXED = re.compile(r"\*[48] \+ (0x[0-9a-f]+)\]")
_IMMEDIATE = re.compile(r", (0x[0-9a-f]+)$")


def table_targets(
    code: bytes,
    address: int,
    targets: range,
    extents: Sequence[range],
    read: Callable[[int, int], bytes],
) -> list[tuple[int, int]]:
    """Return (place, target) of the table entries and operands that lead into `targets`.

    `code` at `address` is a function or a fragment of it, `extents` all that it consists of;
    `read` gives the bytes at an address, or fewer, or raises OSError. Functions without an
    indirect jump have no tables and cost next to nothing.
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
    for base, following in pairwise([*sorted(bases), _MAPPABLE.stop]):
        # What has an address of its own is not part of the table before it.
        table = _read_table(base, min(following - base, _TABLE_SIZE), read)
        for target in targets:
            offsets = _offsets_to(table, base, target, extents)
            if target != address:
                offsets += _aligned(table, target, 8)
            found += [(base + offset, target) for offset in offsets]
    return found


def _offsets_to(table: bytes, base: int, target: int, extents: Sequence[range]) -> list[int]:
    """Return where a table of 32-bit offsets leads to `target`."""
    found = []
    for offset in _aligned(table, (target - base) & 0xFFFFFFFF, 4):
        before = struct.unpack_from(f"<{offset // 4 + 1}i", table)
        inside = sum(any(base + value in extent for extent in extents) for value in before)
        if 2 * inside > len(before):
            found.append(offset)
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


def _read_table(base: int, size: int, read: Callable[[int, int], bytes]) -> bytes:
    """Read page by page, so that a table at the end of a mapping is read too."""
    data, end = b"", base + size
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

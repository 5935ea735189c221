# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64 machine code as bytes: the few encodings that redirecting a function needs.

The facts are from the Intel SDM, volume 2 (JMP, Jcc, NOP, ENDBR64, section 2.2.1 on REX
prefixes) and are the only opcodes in hotpatch that aren't assembled from `trampolines/`.
"""

from __future__ import annotations

import re
import struct

PAGE_SIZE = 4096

ENDBR64 = b"\xf3\x0f\x1e\xfa"
JUMP_SIZE = 5
"""Size of `jmp rel32`."""
SHORT_JUMP_SIZE = 2
"""Size of `jmp rel8`."""
CONDITIONAL_JUMP_SIZE = 6
"""Size of `jcc rel32`."""
FILL = b"\x0f\x0b"
"""`ud2`: what fills the space between pieces of code, so that a stray jump can't slide on."""

_JUMP = 0xE9
_SHORT_JUMP = 0xEB

# The recommended multi-byte forms, with any run of the 66 and 2e prefixes that assemblers add.
_NOP = rb"(?:[\x66\x2e]*(?:\x90|\x0f\x1f(?:\x00|\x40.|\x44..|\x80....|\x84.....)))"
_NOPS = re.compile(_NOP, re.DOTALL)
# Linkers and assemblers fill the space between functions with NOPs, int3 (lld) or zeros.
_PADDING = re.compile(rb"(?:" + _NOP + rb"|\xcc|\x00)*", re.DOTALL)
# Prefixes that `jmp rel32` accepts and ignores: every REX, and F2 (BND, ignored without MPX).
_IGNORED_BY_JUMP = frozenset(range(0x40, 0x50)) | {0xF2}


def reaches(end: int, target: int) -> bool:
    """Return whether a 32-bit displacement counted from `end` reaches `target`."""
    return -0x80000000 <= target - end <= 0x7FFFFFFF


def reaches_short(end: int, target: int) -> bool:
    """Return whether an 8-bit displacement counted from `end` reaches `target`."""
    return -0x80 <= target - end <= 0x7F


def jump(address: int, target: int) -> bytes:
    """Return the 5 bytes of `jmp target` at `address`; OverflowError beyond 2 GB."""
    return bytes((_JUMP,)) + _displacement(address + JUMP_SIZE, target)


def short_jump(address: int, target: int) -> bytes:
    """Return the 2 bytes of `jmp short target` at `address`; OverflowError beyond 127 bytes."""
    if not reaches_short(address + SHORT_JUMP_SIZE, target):
        raise OverflowError(f"{target:#x} is out of reach of a short jump at {address:#x}")
    return struct.pack("<Bb", _SHORT_JUMP, target - address - SHORT_JUMP_SIZE)


def conditional_jump(condition: int, address: int, target: int) -> bytes:
    """Return `jcc target` in its 6-byte form; `condition` is the low nibble of any Jcc opcode."""
    displacement = _displacement(address + CONDITIONAL_JUMP_SIZE, target)
    return bytes((0x0F, 0x80 | condition & 0xF)) + displacement


def ignored_by_jump(prefix: int) -> bool:
    """Return whether the byte `prefix` before `jmp rel32` leaves its meaning as it is."""
    return prefix in _IGNORED_BY_JUMP


def is_padding(data: bytes) -> bool:
    """Return whether `data` is nothing but what tool chains put between functions."""
    return _PADDING.fullmatch(data) is not None


def nop_boundaries(data: bytes) -> list[int]:
    """Return the offsets behind each NOP of the run that `data` begins with."""
    ends, offset = [], 0
    while found := _NOPS.match(data, offset):
        offset = found.end()
        ends.append(offset)
    return ends


def _displacement(end: int, target: int) -> bytes:
    if not reaches(end, target):
        raise OverflowError(f"{target:#x} is more than 2 GB away from {end:#x}")
    return struct.pack("<i", target - end)

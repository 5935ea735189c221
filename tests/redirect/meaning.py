# SPDX-License-Identifier: GPL-2.0-or-later
"""What code means, wherever it lies: an oracle for moved code, by another way of decoding.

`meaning` lists instructions with every address absolute, and folds the sequences that moved
calls and loops become into the instruction that they stand for.
"""

from __future__ import annotations

import re
import struct

import capstone

_RIP = re.compile(r"\[rip(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_LOOPS = ("loop", "loope", "loopne", "jrcxz", "jecxz")

Meaning = tuple[str, ...]


def meaning(code: bytes, address: int, aliases: dict[int, int] | None = None) -> list[Meaning]:
    """Return each instruction as mnemonic, absolute operands and, of calls, return address.

    `aliases` gives addresses that mean another one.
    """
    known = aliases or {}
    return [
        (*_plain(i.mnemonic), _operands(i, known), *_return_address(i, i.address + i.size))
        for i in _decode(code, address)
    ]


def moved_meaning(code: bytes, address: int, aliases: dict[int, int]) -> list[Meaning]:
    """Return the meaning of moved code, its calls and loops put together again."""
    result: list[Meaning] = []
    instructions = list(_decode(code, address))
    while instructions:
        first = instructions.pop(0)
        literals = _absolute(first.op_str, first.address + first.size)
        if first.mnemonic == "push" and literals and literals[0] - address in range(len(code)):
            (returned,) = struct.unpack_from("<Q", code, literals[0] - address)
            jump = instructions.pop(0)
            name = jump.mnemonic.replace("jmp", "call")
            result.append((*_plain(name), _operands(jump, aliases), f"returns to {returned:#x}"))
            return result
        if _plain(first.mnemonic)[0] in _LOOPS:
            skip, taken = instructions.pop(0), instructions.pop(0)
            assert int(first.op_str, 16) == taken.address
            assert int(skip.op_str, 16) == taken.address + taken.size
            result.append((*_plain(first.mnemonic), _operands(taken, aliases)))
            continue
        result.append((*_plain(first.mnemonic), _operands(first, aliases)))
    return result


def _decode(code: bytes, address: int) -> list[capstone.CsInsn]:
    return list(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, address))


def _plain(mnemonic: str) -> tuple[str]:
    # Prefixes that mean nothing on a direct branch go when it gets its 32-bit form.
    return (re.sub(r"^(bnd|notrack) ", "", mnemonic),)


def _return_address(instruction: capstone.CsInsn, end: int) -> tuple[str, ...]:
    is_call = instruction.mnemonic.split()[-1] == "call"
    return (f"returns to {end:#x}",) if is_call else ()


def _operands(instruction: capstone.CsInsn, aliases: dict[int, int]) -> str:
    text = str(instruction.op_str)
    if text.startswith("0x") and "," not in text:
        return hex(aliases.get(int(text, 16), int(text, 16)))
    end = instruction.address + instruction.size
    return _RIP.sub(lambda match: f"[{_target(match, end):#x}]", text)


def _absolute(text: str, end: int) -> list[int]:
    return [_target(match, end) for match in _RIP.finditer(text)]


def _target(match: re.Match[str], end: int) -> int:
    offset = int(match[2], 0) if match[2] else 0
    return end + (-offset if match[1] == "-" else offset)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the instructions that branch to given addresses, without decoding most code.

Every direct jump, branch, loop, call and xbegin is an opcode of one or two bytes followed
by its displacement. So the bytes are searched, at every offset, for such an opcode
with a displacement that leads to the addresses; where nothing is found there is no
such branch, whichever way the bytes are decoded. Only code with a find is decoded.
"""

from __future__ import annotations

import re

from hotpatch.arch.disassembler import Instruction, decode

_NEAR = re.compile(rb"(?=(?:[\xe8\xe9]|\x0f[\x80-\x8f]|\xc7\xf8)(....))", re.DOTALL)
_SHORT = re.compile(rb"(?=[\xeb\x70-\x7f\xe0-\xe3](.))", re.DOTALL)
_SHORT_REACH = 0x80 + 2
_CALL = 0xE8


def branches_to(code: bytes, address: int, targets: range, calls_from: int) -> list[Instruction]:
    """Return the branches in `code` at `address` that lead into `targets`.

    Calls count only if they lead to `calls_from` or beyond. Where the code can't be decoded
    to the end, whatever looks like such a branch behind that point counts.
    """
    found = _candidates(code, address, targets, calls_from)
    if not found:
        return []
    decoded = decode(code, address)
    end = decoded[-1].end if decoded else address
    branches = [i for i in decoded if _leads(i, targets, calls_from)]
    for offset in sorted(found):
        if address + offset >= end:
            branches += decode(code[offset:], address + offset, 1)
    return branches


def possible_branches_to(code: bytes, address: int, targets: range) -> list[int]:
    """Return where there may be a branch into `targets`, calls left out.

    For code with bytes in it that are no longer those of the function, so that decoding it
    from the front may go astray. Errs on the side of a branch.
    """
    found = _candidates(code, address, targets, targets.stop)
    return [address + offset for offset in sorted(found)]


def _leads(instruction: Instruction, targets: range, calls_from: int) -> bool:
    target = instruction.target
    if target is None or target not in targets:
        return False
    return target >= calls_from or instruction.mnemonic.rpartition(" ")[2] != "call"


def _candidates(code: bytes, address: int, targets: range, calls_from: int) -> set[int]:
    found = set()
    for match in _NEAR.finditer(code):
        start, end = match.span(1)
        target = address + end + int.from_bytes(match[1], "little", signed=True)
        if target in targets and (code[match.start()] != _CALL or target >= calls_from):
            found.add(match.start())
    low = max(targets.start - _SHORT_REACH - address, 0)
    high = max(targets.stop + _SHORT_REACH - address, 0)
    for match in _SHORT.finditer(code[low:high]):
        start, end = match.span(1)
        if address + low + end + (code[low + start] ^ 0x80) - 0x80 in targets:
            found.add(low + match.start())
    return found

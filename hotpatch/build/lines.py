# SPDX-License-Identifier: GPL-2.0-or-later
"""Line numbers in code: what __LINE__, assert and the like leave in a function.

A diff that adds a line moves all that is below it. A function there differs in the numbers that it
passes on for messages and in nothing else, and does not have to be replaced for that. Whether a
number is such a one is told by the debug information: it is the line of the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hotpatch.arch.disassembler import Instruction, decode
from hotpatch.build.atoms import Atom
from hotpatch.build.objects import Object

Lines = Callable[[Atom, int], int | None]
"""Returns the source line of the instruction at an offset in a function, None where not known."""

_NUMBER = re.compile(r"\b(?:0x[0-9a-f]+|\d+)\b")


def only_lines_differ(
    old: tuple[Object, Atom], new: tuple[Object, Atom], lines: tuple[Lines, Lines] | None
) -> bool:
    """Tell whether two functions with the same references differ only in their own line numbers."""
    before, after = old[0].data(old[1]), new[0].data(new[1])
    if lines is None or len(before) != len(after):
        return False
    first, second = decode(before, 0), decode(after, 0)
    if len(first) != len(second) or sum(len(i.data) for i in first) != len(before):
        return False
    return all(
        one.data == other.data
        or _is_line(one, other, lines[0](old[1], one.address), lines[1](new[1], other.address))
        for one, other in zip(first, second, strict=True)
    )


def _is_line(one: Instruction, other: Instruction, old: int | None, new: int | None) -> bool:
    """Tell whether an instruction's only difference is the number of its own line."""
    if old is None or new is None or one.mnemonic != other.mnemonic:
        return False
    if len(one.data) != len(other.data) or one.address != other.address:
        return False
    return _NUMBER.sub("#", one.operands) == _NUMBER.sub("#", other.operands) and all(
        a == b or (int(a, 0), int(b, 0)) == (old, new)
        for a, b in zip(_NUMBER.findall(one.operands), _NUMBER.findall(other.operands), strict=True)
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Sites: the places of a function where a jump to its gate may go, the best first.

1. `jmp gate`, 5 bytes, behind `endbr64` or, in a sled of NOPs, behind some of these;
2. the same one byte on, where the first instruction begins with a prefix that `jmp` ignores;
3. `jmp short` to an *island*, a `jmp gate` in the padding between functions;
4. `jmp gate` behind *kept* instructions, the start of a prologue that the gate can undo.

Number 1 is the rule. The others are for entries across two pages, for branches into the
first five bytes and for functions shorter than the jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from hotpatch.arch import code as machine
from hotpatch.arch.code import JUMP_SIZE, PAGE_SIZE, SHORT_JUMP_SIZE
from hotpatch.arch.disassembler import Instruction, decode
from hotpatch.arch.prologue import undo

WINDOW = JUMP_SIZE + 15 + 4
"""Bytes to decode for a jump: its own, the longest instruction across its end, an endbr64."""


class Stretch(NamedTuple):
    """Bytes of the target and where they are."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """Address of the byte behind."""
        return self.address + len(self.data)


def _read_nothing(_address: int, _size: int) -> bytes:
    return b""


class Function(NamedTuple):
    """The live code of a function and of what lies around it.

    `code` has the size of the symbol. `gaps` are the bytes between the end of one symbol and the
    start of the next, whole, of those within 130 bytes of the entry or of the function's end: they
    are used only if they are padding from end to end, since in a stripped program the space
    between two symbols holds functions without a name, and NOPs that are run. `fragments` is code
    outside the symbol that may branch into it (`.cold` and kin); `labels` are the addresses of
    other symbols close behind its start. `read` gives live bytes, for the tables of a `switch`.
    """

    name: str
    address: int
    code: bytes
    gaps: tuple[Stretch, ...] = ()
    fragments: tuple[Stretch, ...] = ()
    labels: tuple[int, ...] = ()
    read: Callable[[int, int], bytes] = _read_nothing

    @property
    def end(self) -> int:
        """Address of the byte behind the function."""
        return self.address + len(self.code)


class Site(NamedTuple):
    """A place for a jump of `size` bytes; `start` is where displaced instructions begin."""

    start: int
    jump: int
    size: int
    kept: tuple[Instruction, ...] = ()
    island: Stretch | None = None

    @property
    def end(self) -> int:
        """Address of the byte behind the jump."""
        return self.jump + self.size


class Padding:
    """The padding that an entry may use, looked for when first needed."""

    def __init__(self, function: Function, claimed: Iterable[range]) -> None:
        """Leave out what other entries have `claimed`."""
        self._function = function
        self._claimed = claimed

    @cached_property
    def gaps(self) -> list[Stretch]:
        """The padding within reach."""
        gaps = [gap for gap in self._function.gaps if machine.is_padding(gap.data)]
        for taken in self._claimed:
            gaps = [part for gap in gaps for part in _without(gap, taken)]
        return gaps

    @property
    def behind(self) -> bytes:
        """The padding right behind the function."""
        found = (gap.data for gap in self.gaps if gap.address == self._function.end)
        return next(found, b"")


def sites(function: Function, padding: Padding) -> Iterator[Site]:
    """Yield the sites of a function, the best first; whether they do is not looked at here."""
    code, first = function.code, function.address
    if code.startswith(machine.ENDBR64):
        first += len(machine.ENDBR64)
    nops = machine.nop_boundaries(code[first - function.address :])
    starts = [first, *(first + offset for offset in nops)]
    for start in starts:
        yield Site(start, start, JUMP_SIZE)
    if first < function.end and machine.ignored_by_jump(code[first - function.address]):
        yield Site(first, first + 1, JUMP_SIZE)
    for start in starts:
        for island in _islands(start + SHORT_JUMP_SIZE, padding.gaps):
            yield Site(start, start, SHORT_JUMP_SIZE, (), island)
    yield from _kept_sites(function, first)


def crosses_page(start: int, end: int) -> bool:
    """Return whether the bytes from `start` up to `end` lie in more than one page."""
    return start // PAGE_SIZE != (end - 1) // PAGE_SIZE


def _without(gap: Stretch, taken: range) -> list[Stretch]:
    """Return what is left of a gap when `taken` is in use."""
    if taken.stop <= gap.address or gap.end <= taken.start:
        return [gap]
    before = Stretch(gap.address, gap.data[: max(taken.start - gap.address, 0)])
    after = Stretch(taken.stop, gap.data[max(taken.stop - gap.address, 0) :])
    return [part for part in (before, after) if part.data]


def _islands(end: int, gaps: Sequence[Stretch]) -> Iterator[Stretch]:
    """Yield one place in each gap that a short jump that ends at `end` reaches."""
    for gap in gaps:
        for offset in range(len(gap.data) - JUMP_SIZE + 1):
            place = gap.address + offset
            if machine.reaches_short(end, place) and not crosses_page(place, place + JUMP_SIZE):
                yield Stretch(place, gap.data[offset : offset + JUMP_SIZE])
                break


def _kept_sites(function: Function, first: int) -> Iterator[Site]:
    kept: list[Instruction] = []
    offset = first - function.address
    for instruction in decode(function.code[offset : offset + WINDOW], first):
        kept.append(instruction)
        code = undo(kept)
        if code is None:
            return
        if code:
            yield Site(instruction.end, instruction.end, JUMP_SIZE, tuple(kept))

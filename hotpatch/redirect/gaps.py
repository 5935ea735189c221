# SPDX-License-Identifier: GPL-2.0-or-later
"""Gaps: the padding between functions, which a jump may use that has no room elsewhere.

A gap is all of the space between the end of one symbol and the start of the next. It counts only
if it is padding from end to end: in a stripped program the space between two
symbols holds functions without a name, whose loops are aligned with NOPs that are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from hotpatch.arch.code import is_padding

REACH = 0x80 + 8
"""How far from an entry a gap can be of use: a short jump, and the jump it leads to."""
_LONGEST = 1 << 16


class Stretch(NamedTuple):
    """Bytes of the target and where they are."""

    address: int
    data: bytes

    @property
    def end(self) -> int:
        """Address of the byte behind."""
        return self.address + len(self.data)


def find_gaps(
    start: int,
    end: int,
    symbols: Iterable[tuple[int, int]],
    limits: range,
    read: Callable[[int, int], bytes],
) -> tuple[Stretch, ...]:
    """Return the padding within reach of the entry at `start`, or at `end` of its function.

    `symbols` are address and size of everything in the module that has a name, `limits` the
    executable section with the function, `read` gives the live bytes of an address and a size.
    """
    window = range(start - REACH, max(end + 1, start + REACH))
    gaps = []
    for gap in _between(symbols, window, limits):
        data = read(gap.start, len(gap)) if len(gap) <= _LONGEST else b""
        if data and is_padding(data):
            gaps.append(Stretch(gap.start, data))
    return tuple(gaps)


def without(gap: Stretch, taken: range) -> list[Stretch]:
    """Return what is left of a gap when `taken` is in use."""
    if taken.stop <= gap.address or gap.end <= taken.start:
        return [gap]
    before = Stretch(gap.address, gap.data[: max(taken.start - gap.address, 0)])
    after = Stretch(taken.stop, gap.data[max(taken.stop - gap.address, 0) :])
    return [part for part in (before, after) if part.data]


def _between(symbols: Iterable[tuple[int, int]], window: range, limits: range) -> list[range]:
    """Return the gaps that overlap `window`, whole; before the first symbol nothing is known."""
    sizes = sorted((at, size) for at, size in symbols if at in limits)
    gaps: list[range] = []
    covered: int | None = None
    for at, size in [*sizes, (limits.stop, 0)]:
        if covered is not None and covered < at and _overlap(covered, at, window):
            gaps.append(range(covered, at))
        if covered is not None and at < covered and not size:
            continue  # a label inside a function
        # Code without a size may go on up to the next symbol that has one.
        covered = max(covered or 0, at + size) if size else None
    return gaps


def _overlap(start: int, end: int, window: range) -> bool:
    return start < window.stop and window.start < end

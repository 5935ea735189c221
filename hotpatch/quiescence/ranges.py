# SPDX-License-Identifier: GPL-2.0-or-later
"""The code that must not be active, and a search for words that point into it.

A word that points strictly inside a range may be a return address or a program counter. One
that equals its start is neither: a thread about to execute the first byte of an entry, a gate or a
function goes whichever way the switch says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

_PREFIX = slice(3, 6)  # bytes of a little-endian word that tell 16 MB of address space apart


class Range(NamedTuple):
    """Code from `start` up to `end`, and the function that it belongs to."""

    start: int
    end: int
    function: str


class Ranges:
    """A set of ranges, prepared for searching stacks."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        """Prepare; ranges may touch but not overlap."""
        self._ranges = sorted(ranges)
        self._starts = [r.start for r in self._ranges]
        self._needles = sorted(
            {
                (window << 24).to_bytes(8, "little")[_PREFIX]
                for r in self._ranges
                for window in range(r.start >> 24, (r.end >> 24) + 1)
            }
        )

    def find(self, address: int) -> Range | None:
        """Return the range that an address lies strictly inside of."""
        at = bisect_left(self._starts, address) - 1
        if at >= 0 and address < self._ranges[at].end:
            return self._ranges[at]
        return None

    def search(self, words: bytes | bytearray) -> list[tuple[int, int]]:
        """Return (offset, word) of each 8-byte word that points inside a range.

        The ranges' common high bytes are looked for, so most of a stack costs nothing.
        """
        found = []
        for needle in self._needles:
            at = words.find(needle)
            while at >= 0:
                offset = at - _PREFIX.start
                if offset >= 0 and not offset & 7:
                    word = int.from_bytes(words[offset : offset + 8], "little")
                    if self.find(word) is not None:
                        found.append((offset, word))
                at = words.find(needle, at + 1)
        return found

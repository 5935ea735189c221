# SPDX-License-Identifier: GPL-2.0-or-later
"""The code that must not be active, and a search for words that point into it.

A word that points strictly inside a range may be a return address or a program counter. One
that equals its start is neither: a thread about to execute the first byte of an entry, a gate or a
function goes whichever way the switch says.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from hotpatch.linux.memory import Buffer

_libc = ctypes.CDLL(None)
_wmemchr = _libc.wmemchr  # finds a 32-bit word, a vector of them at a time
_wmemchr.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t)
_wmemchr.restype = ctypes.c_void_p


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
        self._halves = sorted(
            {half for r in self._ranges for half in range(r.start >> 32, (r.end >> 32) + 1)}
        )

    def find(self, address: int) -> Range | None:
        """Return the range that an address lies strictly inside of."""
        at = bisect_left(self._starts, address) - 1
        if at >= 0 and address < self._ranges[at].end:
            return self._ranges[at]
        return None

    def search(self, words: bytes) -> list[tuple[int, int]]:
        """Return (offset, word) of each aligned word in `words` that points inside a range."""
        buffer = Buffer(len(words))
        buffer.data[: len(words)] = words
        return self.search_buffer(buffer, len(words))

    def search_buffer(self, words: Buffer, size: int) -> list[tuple[int, int]]:
        """Return (offset, word) of each aligned word, of the first `size` bytes, inside a range.

        The upper halves of words are compared first, by the C library: most of a stack
        costs a fraction of a nanosecond a byte.
        """
        found = []
        base, data, end = words.address, words.data, words.address + size
        for half in self._halves:
            at = _wmemchr(base, half, size >> 2)
            while at:
                offset = at - base - 4
                if not offset & 7:
                    word = int.from_bytes(data[offset : offset + 8], "little")
                    if self.find(word) is not None:
                        found.append((offset, word))
                at = _wmemchr(at + 4, half, (end - at - 4) >> 2)
        return found

# SPDX-License-Identifier: GPL-2.0-or-later
"""The code that must not be active, and a search for words that point into it.

A word that points strictly inside a range may be a return address or a program counter. One
that equals its start is neither: a thread about to execute the first byte of an entry, a gate or a
function goes whichever way the switch says.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from hotpatch.linux.memory import Buffer

_MOST_WINDOWS = 8
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
        self._windows = _windows(self._ranges, 16)
        self._prefixes = [w.to_bytes(5, "little")[:3] for w in _windows(self._ranges, 24)]

    def find(self, address: int) -> Range | None:
        """Return the range that an address lies strictly inside of."""
        at = bisect_left(self._starts, address) - 1
        if at >= 0 and address < self._ranges[at].end:
            return self._ranges[at]
        return None

    def search(self, words: bytes) -> list[tuple[int, int]]:
        """Return (offset, word) of each aligned word in `words` that points inside a range."""
        buffer = Buffer(len(words))
        buffer.data[buffer.start : buffer.start + len(words)] = words
        return self.search_buffer(buffer, len(words))

    def search_buffer(self, words: Buffer, size: int) -> list[tuple[int, int]]:
        """Return (offset, word) of each aligned word, of the first `size` bytes, inside a range.

        What is compared first, without a look at each word here, are the bits that tell 64 KB of
        address space apart, or 16 MB where the ranges are in many places.
        """
        if len(self._windows) <= _MOST_WINDOWS:
            places = chain.from_iterable(_equal(words, size, w) for w in self._windows)
        else:
            places = chain.from_iterable(_prefixed(words, size, p) for p in self._prefixes)
        found = []
        for offset in places:
            word = words.word(offset)
            if self.find(word) is not None:
                found.append((offset, word))
        return found


def _windows(ranges: Iterable[Range], shift: int) -> list[int]:
    """Return the parts of address space, of 2**`shift` bytes each, that ranges lie in."""
    return sorted({w for r in ranges for w in range(r.start >> shift, (r.end >> shift) + 1)})


def _equal(words: Buffer, size: int, window: int) -> Iterator[int]:
    """Yield the offsets of words whose bits 16 to 47 are `window`."""
    first, end = words.address + 2, words.address + size
    at = _wmemchr(first, window, size >> 2)
    while at:
        if not (at - first) & 7:
            yield at - first
        at = _wmemchr(at + 4, window, (end - at) >> 2)


def _prefixed(words: Buffer, size: int, prefix: bytes) -> Iterator[int]:
    """Yield the offsets of words whose bits 24 to 47 are `prefix`."""
    data, end = words.data, words.start + size
    at = data.find(prefix, words.start, end)
    while at >= 0:
        offset = at - 3 - words.start
        if not offset & 7 and offset >= 0:
            yield offset
        at = data.find(prefix, at + 1, end)

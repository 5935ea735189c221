# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges of code that must not be active, or of memory, and a search for words that point there.

A word that points strictly inside a range may be a return address or a program counter. One
that equals its start is neither: a thread about to execute the first byte of an entry, a gate or a
function goes whichever way the switch says.

What is compared first, without a look at each word here, are four bytes of it, by the C library's
vector instructions. Those are bytes 1 to 4, which tell 256 bytes of address space apart, where that
makes few places to look for; bytes 2 to 5, 64 KB, where it doesn't; and where the ranges are all
over the address space, bytes 3 to 6, or 3 to 5 by other means where many are likely to be found.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from hotpatch.linux.memory import Buffer

_MOST_GRANULES, _MOST_WINDOWS = 6, 8
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

    def __init__(self, ranges: Iterable[Range], few: bool = False) -> None:
        """Prepare; ranges may touch but not overlap. `few`: there is little to be found."""
        self._ranges = sorted(ranges)
        self.starts = [r.start for r in self._ranges]
        self._prefixes: list[bytes] = []
        if sum((r.end >> 8) - (r.start >> 8) + 1 for r in self._ranges) <= _MOST_GRANULES:
            self.lane, self._patterns = 1, _windows(self._ranges, 8)
        else:
            self.lane, self._patterns = 2, _windows(self._ranges, 16)
        if len(self._patterns) > _MOST_WINDOWS and few:
            self.lane, self._patterns = 3, _windows(self._ranges, 24)
        elif len(self._patterns) > _MOST_WINDOWS:
            self._prefixes = [w.to_bytes(5, "little")[:3] for w in _windows(self._ranges, 24)]

    def find(self, address: int) -> Range | None:
        """Return the range that an address lies strictly inside of."""
        at = bisect_left(self.starts, address) - 1
        if at >= 0 and address < self._ranges[at].end:
            return self._ranges[at]
        return None

    def search(self, words: bytes) -> list[tuple[int, int]]:
        """Return (offset, word) of each aligned word in `words` that points inside a range."""
        buffer = Buffer(len(words), self.lane)
        buffer.put(0, words)
        return self.search_buffer(buffer, len(words))

    def search_buffer(self, buffer: Buffer, size: int) -> list[tuple[int, int]]:
        """Return (offset, word) of each aligned word, of the first `size` bytes, inside a range.

        The buffer has to be one of our `lane`.
        """
        words = buffer.words
        found = [(offset, words[offset >> 3]) for offset in self.places(buffer, size)]
        return [(offset, word) for offset, word in found if self.find(word) is not None]

    def places(self, buffer: Buffer, size: int) -> Iterator[int]:
        """Yield the offsets of words that point inside a range, and of some that point near one."""
        assert buffer.lane == self.lane
        if self._prefixes:
            return chain.from_iterable(prefixed(buffer, size, p, 3) for p in self._prefixes)
        return chain.from_iterable(equal_words(buffer, size, p) for p in self._patterns)


def _windows(ranges: Iterable[Range], shift: int) -> list[int]:
    """Return the parts of address space, of 2**`shift` bytes each, that ranges lie in."""
    return sorted({w for r in ranges for w in range(r.start >> shift, (r.end >> shift) + 1)})


def equal_words(buffer: Buffer, size: int, pattern: int) -> Iterator[int]:
    """Yield the offsets of words whose four bytes in the buffer's lane are `pattern`."""
    first, end = buffer.address + buffer.lane, buffer.address + size
    at = _wmemchr(first, pattern, size >> 2)
    while at:
        if not (at - first) & 7:
            yield at - first
        at = _wmemchr(at + 4, pattern, (end - at) >> 2)


def prefixed(buffer: Buffer, size: int, prefix: bytes, number: int) -> Iterator[int]:
    """Yield the offsets of words whose bytes from `number` on are `prefix`."""
    data, start, end = buffer.data, buffer.start, buffer.start + size
    at = data.find(prefix, start, end)
    while at >= 0:
        offset = at - number - start
        if not offset & 7 and offset >= 0:
            yield offset
        at = data.find(prefix, at + 1, end)

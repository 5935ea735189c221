# SPDX-License-Identifier: GPL-2.0-or-later
"""Searching memory for pointers that glibc's setjmp has mangled.

What it does to them moves 32 KB of address space to words with the same upper half, which is
searched for by vector instructions like any other four bytes; where there are many such pieces,
8 MB to words with the same three upper bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain

from hotpatch.arch.switching import demangle, mangle
from hotpatch.linux.memory import Buffer
from hotpatch.quiescence.ranges import equal_words, prefixed

_WINDOW, _WIDE_WINDOW = 15, 23
_MOST_WINDOWS = 8


class Mangled:
    """Finds mangled pointers into some (start, end), which ascend and don't overlap."""

    lane = 4

    def __init__(self, spans: Iterable[tuple[int, int]], guard: int) -> None:
        """Prepare; `guard` is the process's pointer guard."""
        self._spans = list(spans)
        self._guard = guard
        self._starts = [start for start, _ in self._spans]
        self._patterns = self._windows(_WINDOW, 32)
        self._prefixes: list[bytes] = []
        if len(self._patterns) > _MOST_WINDOWS:
            wide = self._windows(_WIDE_WINDOW, 40)
            self._prefixes = [pattern.to_bytes(3, "little") for pattern in wide]

    def _windows(self, shift: int, same: int) -> list[int]:
        """Return what the words with mangled pointers have from bit `same` on."""
        windows = {w for s, e in self._spans for w in range(s >> shift, (e >> shift) + 1)}
        return sorted({mangle(window << shift, self._guard) >> same for window in windows})

    def search_buffer(self, buffer: Buffer, size: int) -> list[tuple[int, int]]:
        """Return (offset, pointer) of each, demangled, in the first `size` bytes."""
        assert buffer.lane == self.lane
        if self._prefixes:
            places = chain.from_iterable(prefixed(buffer, size, p, 5) for p in self._prefixes)
        else:
            places = chain.from_iterable(equal_words(buffer, size, p) for p in self._patterns)
        found = []
        for offset in places:
            pointer = demangle(buffer.words[offset >> 3], self._guard)
            at = bisect_right(self._starts, pointer) - 1
            if at >= 0 and pointer < self._spans[at][1]:
                found.append((offset, pointer))
        return found

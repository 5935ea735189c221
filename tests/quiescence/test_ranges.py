# SPDX-License-Identifier: GPL-2.0-or-later
"""The search for words that point into ranges, against a look at each word."""

from __future__ import annotations

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from hotpatch.quiescence.ranges import Range, Ranges

BASES = (0x555555554000, 0x7F1234560000, 0x7F1234570000 - 8, 0x400000, 0x7FFFF7FFF000)
ADDRESSES = st.builds(lambda base, at: base + at, st.sampled_from(BASES), st.integers(0, 4 << 16))
WORDS = st.one_of(ADDRESSES, st.integers(0, (1 << 64) - 1), st.just(0))


def disjoint(starts: set[int], sizes: list[int]) -> list[Range]:
    """Ranges at these starts, each ending before the next begins."""
    ordered = sorted(starts)
    nexts = [*ordered[1:], 1 << 47]
    return [
        Range(start, min(start + size, following), f"f{start:x}")
        for start, size, following in zip(ordered, sizes, nexts, strict=False)
    ]


@st.composite
def ranges_and_words(draw: st.DrawFn) -> tuple[list[Range], list[int]]:
    starts = draw(st.sets(ADDRESSES, max_size=draw(st.sampled_from((1, 3, 12, 60)))))
    sizes = draw(st.lists(st.integers(1, 3000), min_size=len(starts), max_size=len(starts)))
    ranges = disjoint(starts, sizes)
    edges = [edge + by for r in ranges for edge in (r.start, r.end) for by in (-1, 0, 1)]
    inside = st.sampled_from(edges) if edges else st.just(1)
    return ranges, draw(st.lists(st.one_of(WORDS, inside), max_size=80))


@given(ranges_and_words())
@example(([], [0, 1, 1 << 63]))
@example(([Range(0x5555555540FF, 0x555555554101, "f")], [0x555555554100, 0x5555555540FF] * 2))
def test_what_is_found_is_what_lies_strictly_inside(case: tuple[list[Range], list[int]]) -> None:
    ranges, words = case
    expected = [
        (8 * at, word)
        for at, word in enumerate(words)
        if any(r.start < word < r.end for r in ranges)
    ]
    found = Ranges(ranges).search(struct.pack(f"<{len(words)}Q", *words))
    assert sorted(found) == expected


@given(st.integers(1, 12), st.integers(1, 40))
def test_words_that_lie_across_two_are_not_found(size: int, count: int) -> None:
    """Only aligned words are: bytes of two neighbours that look like an address are none."""
    start = 0x7F1234567800
    ranges = Ranges([Range(start, start + size, "f")])
    address = struct.pack("<Q", start + 1)
    shifted = b"\0" * 4 + address * count + b"\0" * 4
    assert ranges.search(shifted) == []

# SPDX-License-Identifier: GPL-2.0-or-later
"""The search for mangled pointers, against a look at each word."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from hotpatch.arch.switching import mangle
from hotpatch.linux.memory import Buffer
from hotpatch.quiescence.mangled import Mangled

BASES = (0x555555554000, 0x7F1234560000, 0x7F1234FF8000, 0x7FFFF7FFF000)
ADDRESSES = st.builds(lambda base, at: base + at, st.sampled_from(BASES), st.integers(0, 4 << 20))
GUARDS = st.integers(0, (1 << 64) - 1)


def spans(starts: set[int]) -> list[tuple[int, int]]:
    ordered = sorted(starts)
    ends = [*ordered, 1 << 47][1:]
    return [(start, min(start + 40_000, end)) for start, end in zip(ordered, ends, strict=True)]


@given(st.sets(ADDRESSES, max_size=20), st.lists(ADDRESSES, max_size=60), GUARDS)
def test_what_is_found_is_what_lies_inside(
    starts: set[int], pointers: list[int], guard: int
) -> None:
    pointers += [start + by for start in starts for by in (-1, 0, 39_999, 40_000)]
    inside = spans(starts)
    expected = [
        (8 * at, pointer)
        for at, pointer in enumerate(pointers)
        if any(start <= pointer < end for start, end in inside)
    ]
    finder = Mangled(inside, guard)
    buffer = Buffer(8 * len(pointers), finder.lane)
    words = [mangle(pointer, guard) for pointer in pointers]
    buffer.put(0, struct.pack(f"<{len(words)}Q", *words))
    assert sorted(finder.search_buffer(buffer, 8 * len(words))) == expected

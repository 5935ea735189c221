# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of addresses as lists of (start, end), sorted and apart from each other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from hotpatch.quiescence.references import Span

_LAST = 1 << 64


def around(address: int, spans: Sequence[Span]) -> Span | None:
    """Return the one that an address lies in."""
    at = bisect_right(spans, (address, _LAST)) - 1
    return spans[at] if at >= 0 and address < spans[at][1] else None


def overlaps(span: Span, spans: Sequence[Span]) -> bool:
    """Say whether one has something of the others."""
    at = bisect_right(spans, (span[1] - 1, _LAST)) - 1
    return at >= 0 and span[0] < spans[at][1]


def merged(spans: Iterable[Span]) -> list[Span]:
    """Return the same addresses, of spans in any order, as such a list."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def common(span: Span, spans: Sequence[Span]) -> list[Span]:
    """Return what one has of the others, extended to whole words."""
    first = max(0, bisect_right(spans, (span[0], 0)) - 1)
    found = []
    for start, end in spans[first:]:
        if start >= span[1]:
            break
        if span[0] < end:
            found.append((max(start, span[0]) & -8, min(end + 7 & -8, span[1])))
    return found

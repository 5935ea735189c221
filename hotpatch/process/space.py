# SPDX-License-Identifier: GPL-2.0-or-later
"""Free address space near a module.

A `jmp rel32` and a RIP-relative operand reach 2 GB to either side, so what belongs to a patched
function has to lie that near. The places that the kernel or the program will grow into are kept
clear: what follows the heap, and what lies below the main stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hotpatch.linux.procfs import Mapping

REACH = (1 << 31) - (1 << 16)  # with room for the length of the instruction itself
_PAGE = 4096
_LOWEST = 1 << 16  # vm.mmap_min_addr as distributions set it
_HIGHEST = (1 << 47) - _PAGE
_HEAP_ROOM = 512 << 20
_STACK_ROOM = 512 << 20


def find_space(
    mappings: Sequence[Mapping], size: int, near: tuple[int, int], taken: Iterable[tuple[int, int]]
) -> int | None:
    """Return the address of a free place of `size` bytes, or None.

    All of it is in reach of all of `near` (start, end). `taken` are (start, end) ranges that are
    spoken for although nothing is mapped there yet. The nearest place wins, one below the
    module before one above it.
    """
    lowest = max(near[1] - REACH, _LOWEST)
    highest = min(near[0] + REACH, _HIGHEST)
    best: tuple[int, int] | None = None
    for start, end in _gaps(mappings, taken):
        start, end = max(start, lowest), min(end, highest)  # noqa: PLW2901
        address = (end - size) & -_PAGE if end <= near[0] else -(-start // _PAGE) * _PAGE
        if address < start or address + size > end:
            continue
        distance = near[0] - address if address < near[0] else 2 * (address - near[0])
        if best is None or distance < best[0]:
            best = (distance, address)
    return best[1] if best else None


def _gaps(
    mappings: Sequence[Mapping], taken: Iterable[tuple[int, int]]
) -> Iterable[tuple[int, int]]:
    """Return the ranges between mappings, a page away from each, that nobody will need."""
    used = [_used(mapping) for mapping in mappings] + list(taken)
    used.sort()
    end_of_last = 0
    for start, end in [*used, (1 << 47, 1 << 47)]:
        if start - end_of_last > 2 * _PAGE:
            yield end_of_last + _PAGE, start - _PAGE
        end_of_last = max(end_of_last, end)


def _used(mapping: Mapping) -> tuple[int, int]:
    if mapping.path == "[heap]":
        return mapping.start, mapping.end + _HEAP_ROOM
    if mapping.path == "[stack]":
        return mapping.start - _STACK_ROOM, mapping.end
    return mapping.start, mapping.end

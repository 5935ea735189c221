# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the segments of a patch come to lie, and with which protection.

The distances between segments are kept, as their code relies on them. The linker is done with
relocation when the image is written, so what the file marks to become read-only after it
(PT_GNU_RELRO) is read-only from the start, except pages that a call at the commit still fills.
No page is ever writable and executable (P8).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from mmap import PROT_EXEC, PROT_READ, PROT_WRITE
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.elf import constants as c
from hotpatch.errors import Refused

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.elf.header import Segment

PAGE = 4096

_PROTECTIONS = {c.PF_R: PROT_READ, c.PF_W: PROT_WRITE, c.PF_X: PROT_EXEC}


class Run(NamedTuple):
    """Pages of one protection (PROT_*); `address` and `size` in bytes."""

    address: int
    size: int
    prot: int


def loads(elf: ElfFile) -> list[Segment]:
    """Return the segments that take memory."""
    return [s for s in elf.segments if s.type == c.PT_LOAD and s.memsz]


def pages(address: int, size: int) -> range:
    """Return the addresses of the pages that `size` bytes at `address` lie in."""
    return range(address & -PAGE, (address + size + PAGE - 1) & -PAGE, PAGE)


def span(elf: ElfFile) -> range:
    """Return the virtual addresses that the image takes, whole pages."""
    segments = loads(elf)
    last = segments[-1]
    return range(segments[0].vaddr & -PAGE, pages(last.vaddr, last.memsz).stop)


def content(elf: ElfFile) -> bytearray:
    """Return the image before relocation: `span`, up to the last byte that the file has."""
    start = span(elf).start
    stored = max(s.vaddr + s.filesz for s in loads(elf)) - start
    image = bytearray(stored)
    for segment in loads(elf):
        offset = segment.vaddr - start
        image[offset : offset + segment.filesz] = elf.read(segment.vaddr, segment.filesz)
    return image


def writable(elf: ElfFile, place: range) -> bool:
    """Tell whether virtual addresses lie in one segment that relocation may write to."""
    return any(
        s.flags & c.PF_W and s.vaddr <= place.start and place.stop <= s.vaddr + s.memsz
        for s in loads(elf)
    )


def runs(elf: ElfFile, bias: int, filled_later: Iterable[int]) -> tuple[Run, ...]:
    """Return the image's pages by protection, in order.

    `filled_later` are virtual addresses that are written at the commit. Raises `Refused`
    where code and writable data share a page.
    """
    protection: dict[int, int] = {}
    for segment in loads(elf):
        prot = sum(p for flag, p in _PROTECTIONS.items() if segment.flags & flag)
        for page in pages(segment.vaddr, segment.memsz):
            protection[page] = protection.get(page, 0) | prot
    filled = {place & -PAGE for place in filled_later}
    read_only = _read_only_after_relocation(elf)
    for page in protection:
        if page not in filled and any(page in place for place in read_only):
            protection[page] &= ~PROT_WRITE
    if any(prot & PROT_WRITE and prot & PROT_EXEC for prot in protection.values()):
        raise Refused(
            f"{elf.name} has code and writable data in one page",
            "link it with -z separate-code, or without -n",
        )
    return tuple(_joined(protection, bias))


def _read_only_after_relocation(elf: ElfFile) -> list[range]:
    """Return the addresses of the pages wholly in PT_GNU_RELRO, as the dynamic linker has it."""
    return [
        range(s.vaddr & -PAGE, (s.vaddr + s.memsz) & -PAGE)
        for s in elf.segments
        if s.type == c.PT_GNU_RELRO
    ]


def _joined(protection: dict[int, int], bias: int) -> Iterable[Run]:
    numbered = enumerate(sorted(protection))
    for (_, prot), group in groupby(
        numbered, lambda item: (item[1] - item[0] * PAGE, protection[item[1]])
    ):
        joined = [page for _, page in group]
        yield Run(bias + joined[0], len(joined) * PAGE, prot)

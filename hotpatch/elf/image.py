# SPDX-License-Identifier: GPL-2.0-or-later
"""The image of a file: what its PT_LOAD segments put at which virtual address."""

from __future__ import annotations

from hotpatch.elf import constants as c
from hotpatch.elf.content import Content
from hotpatch.elf.header import Segment

# A reader asks for parts of an image. More zeros than this at once come from a damaged size.
LARGEST_BSS = 1 << 28


class Image:
    """Virtual addresses (as linked, without load bias) to bytes of the file."""

    def __init__(self, content: Content, segments: tuple[Segment, ...]) -> None:
        """Use the PT_LOAD ones of `segments`."""
        self.content = content
        self._loads = [s for s in segments if s.type == c.PT_LOAD]

    def segment(self, vaddr: int) -> Segment | None:
        """Return the PT_LOAD segment that holds `vaddr`."""
        for load in self._loads:
            if load.vaddr <= vaddr < load.vaddr + load.memsz:
                return load
        return None

    def backed(self, vaddr: int) -> int:
        """Return how many bytes from `vaddr` to the end of its segment come from the file."""
        load = self.segment(vaddr)
        if load is None:
            return 0
        held = min(load.filesz, max(0, len(self.content) - load.offset))
        return max(0, load.vaddr + held - vaddr)

    def offset(self, vaddr: int, size: int, what: str) -> int:
        """Return the file offset of `size` bytes at `vaddr`; ElfError unless the file has all."""
        load = self.segment(vaddr)
        if load is None or size < 0 or size > self.backed(vaddr):
            raise self.content.error(f"{what} of {size} bytes at {vaddr:#x} is not in the file")
        return load.offset + vaddr - load.vaddr

    def read(self, vaddr: int, size: int) -> bytes:
        """Return `size` bytes at `vaddr`, zeros for what lies behind the file's part (bss)."""
        load = self.segment(vaddr)
        if load is None or size < 0 or vaddr + size > load.vaddr + load.memsz:
            raise self.content.error(f"{size} bytes at {vaddr:#x} lie in no segment")
        stored = min(size, max(0, load.vaddr + load.filesz - vaddr))
        start = load.offset + vaddr - load.vaddr if stored else 0
        if size - stored > LARGEST_BSS:
            raise self.content.error(f"{size} bytes at {vaddr:#x} are too many zeros")
        return self.content.take(start, stored, "segment") + bytes(size - stored)

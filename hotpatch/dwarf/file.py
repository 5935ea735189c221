# SPDX-License-Identifier: GPL-2.0-or-later
"""All call frame information of one ELF file, or of an image in memory: `CallFrames`.

    CallFrames.of_file(elf).row(pc)         # None: the file says nothing of that address

.eh_frame is what programs are loaded with; .debug_frame, which compilers write for code that is
not to be unwound at run time, is asked where that is silent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from hotpatch.dwarf.cfi import Row, row_at
from hotpatch.dwarf.cursor import DwarfError, Read
from hotpatch.dwarf.entries import FrameSection
from hotpatch.dwarf.search import Frames, read_header
from hotpatch.dwarf.sections import DebugSections
from hotpatch.elf import constants as elf_constants
from hotpatch.elf.file import ElfError, ElfFile, Section

Opener = Callable[[], Frames | None]


class CallFrames:
    """Call frame information from several places, each looked at when those before are silent."""

    def __init__(self, places: Sequence[Opener], read: Read) -> None:
        """Use what each of `places` opens; `read` reads the image."""
        self._places = list(places)
        self._opened: list[Frames] = []
        self._read = read

    @classmethod
    def of_file(cls, elf: ElfFile, debug: Callable[[], ElfFile | None] | None = None) -> CallFrames:
        """Use a file, and where it is silent what `debug` gives: its separate debug file."""

        def separate() -> Frames | None:
            other = debug() if debug is not None else None
            return _debug_frame(other) if other is not None else None

        return cls((lambda: _eh_frame(elf), lambda: _debug_frame(elf), separate), elf.read)

    @classmethod
    def of_image(cls, read: Read, header: int) -> CallFrames:
        """Use the .eh_frame_hdr at the address `header` of what `read` reads."""
        return cls((lambda: _by_header(read, header, None, None),), read)

    def row(self, pc: int) -> Row | None:
        """Return the rules at an address of the image, None for code without any.

        Raises DwarfError for damage, and what reading raises but for ElfError.
        """
        number = 0
        while (frames := self._frames(number)) is not None:
            fde = frames.find(pc)
            if fde is not None:
                return row_at(fde, pc, self._read)
            number += 1
        return None

    def _frames(self, number: int) -> Frames | None:
        while number >= len(self._opened):
            if not self._places:
                return None
            try:
                opened = self._places[0]()
            except ElfError as error:
                raise DwarfError(str(error)) from None
            del self._places[0]
            if opened is not None:
                self._opened.append(opened)
        return self._opened[number]


def _by_header(read: Read, address: int, size: int | None, data_base: int | None) -> Frames:
    header = read_header(read, address, size)
    return Frames(FrameSection(read, header.eh_frame, data_base=data_base), header)


def _eh_frame(elf: ElfFile) -> Frames | None:
    """Return what .eh_frame_hdr leads to, or else .eh_frame by its section header."""
    if elf.debug_only:
        return None
    plt_got = elf.dynamic.get(elf_constants.DT_PLTGOT)
    data_base = plt_got[0] if plt_got else None
    for segment in elf.segments:
        if segment.type == elf_constants.PT_GNU_EH_FRAME and segment.filesz:
            with contextlib.suppress(DwarfError):  # then by the section header
                return _by_header(elf.read, segment.vaddr, segment.filesz, data_base)
    section = _section(elf, ".eh_frame")
    if section is None or section.type == elf_constants.SHT_NOBITS:
        return None
    return Frames(FrameSection(elf.read, section.addr, section.size, data_base=data_base))


def _debug_frame(elf: ElfFile) -> Frames | None:
    found = DebugSections(elf).get(".debug_frame")
    return Frames(FrameSection(found.take, 0, found.size, eh=False)) if found else None


def _section(elf: ElfFile, name: str) -> Section | None:
    try:
        return elf.section(name)
    except ElfError:  # the loader doesn't look at section headers: such a file runs
        return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the FDE of an address: by .eh_frame_hdr, or in a list of all FDEs of a section.

.eh_frame_hdr (LSB Core, "The .eh_frame_hdr section") is what a linker makes for programs that
unwind themselves: a table of (start of code, FDE), sorted. It is searched as it lies in the file.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Literal, NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import ADDRESS_MASK, Cursor, DwarfError, Read, read_exactly
from hotpatch.dwarf.entries import Fde, FrameSection

_HEADER_SIZE = 36  # as much as four bytes and two numbers of any encoding can take
_MOST_ENTRIES = 1 << 24
# Table formats whose entries can be searched: memoryview's code and the size in bytes.
_SEARCHABLE: dict[int, tuple[Literal["Q", "I", "i", "q"], int]] = {
    c.DW_EH_PE_absptr: ("Q", 8),
    c.DW_EH_PE_udata4: ("I", 4),
    c.DW_EH_PE_sdata4: ("i", 4),
    c.DW_EH_PE_udata8: ("Q", 8),
    c.DW_EH_PE_sdata8: ("q", 8),
}


class EhFrameHeader(NamedTuple):
    """A decoded .eh_frame_hdr; all addresses are the image's."""

    eh_frame: int
    """Address of .eh_frame."""
    table: memoryview | None
    """Start of code and address of FDE, by turns, both relative to `base`."""
    base: int

    def find(self, pc: int) -> int | None:
        """Return the address of the last FDE that begins at or before `pc`; needs a table."""
        assert self.table is not None
        table, wanted = self.table, pc - self.base
        low, high = 0, len(table) // 2
        while low < high:
            middle = (low + high) // 2
            if table[2 * middle] <= wanted:
                low = middle + 1
            else:
                high = middle
        return None if not low else (self.base + table[2 * low - 1]) & ADDRESS_MASK


def read_header(read: Read, address: int, size: int | None = None) -> EhFrameHeader:
    """Decode the .eh_frame_hdr at an address; raises DwarfError.

    `size` is that of its segment, where it is known.
    """
    wanted = _HEADER_SIZE if size is None else min(size, _HEADER_SIZE)
    cursor = Cursor(read_exactly(read, address, wanted), address)
    version, pointer, count_encoding, table = (cursor.u1() for _ in range(4))
    if version != 1:
        raise DwarfError(f".eh_frame_hdr has version {version}")
    eh_frame = cursor.pointer(pointer, address, read)
    if c.DW_EH_PE_omit in (count_encoding, table):
        return EhFrameHeader(eh_frame, None, 0)
    count = cursor.pointer(count_encoding, address, read)
    code, base = _SEARCHABLE.get(table & 0x0F), address
    if table & 0xF0 == c.DW_EH_PE_absptr:
        base = 0
    elif table & 0xF0 != c.DW_EH_PE_datarel:
        code = None
    if code is None:
        return EhFrameHeader(eh_frame, None, 0)
    bytes_needed = 2 * code[1] * count
    if count > _MOST_ENTRIES or (size is not None and cursor.at + bytes_needed > size):
        raise DwarfError(f".eh_frame_hdr with {count} entries")
    content = read_exactly(read, address + cursor.at, bytes_needed)
    return EhFrameHeader(eh_frame, memoryview(content).cast(code[0]), base)


class Frames:
    """The FDEs of one section, by address."""

    def __init__(self, section: FrameSection, header: EhFrameHeader | None = None) -> None:
        """Search by the table of `header`, or else by going through `section` once."""
        self._section = section
        self._header = header if header is not None and header.table is not None else None

    def find(self, pc: int) -> Fde | None:
        """Return the FDE whose code holds `pc`; DwarfError where the section is damaged."""
        if self._header is not None:
            address = self._header.find(pc)
        else:
            starts, addresses = self._list
            at = bisect_right(starts, pc)
            address = addresses[at - 1] if at else None
        if address is None:
            return None
        fde = self._section.fde(address)
        return fde if fde.start <= pc < fde.end else None

    @cached_property
    def _list(self) -> tuple[list[int], list[int]]:
        """Return where each FDE's code begins, sorted, and the FDEs' addresses."""
        found = self._section.starts()
        return [start for start, _ in found], [address for _, address in found]

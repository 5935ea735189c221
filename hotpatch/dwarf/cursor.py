# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading DWARF's numbers one after the other: `Cursor`.

The bytes may be anything: what isn't there, or makes no sense, raises `DwarfError`.
"""

from __future__ import annotations

from collections.abc import Callable
from mmap import mmap
from struct import Struct

from hotpatch.dwarf import constants as c
from hotpatch.elf.content import ElfError

Read = Callable[[int, int], bytes]
"""(address, size) to bytes; may raise OSError or ElfError, and give fewer at the end."""

ADDRESS_MASK = (1 << 64) - 1
_LONGEST_LEB128 = 10  # bytes that 64 bits take; more would be padding, which nothing emits here

_U2, _S2, _U4, _S4 = Struct("<H"), Struct("<h"), Struct("<I"), Struct("<i")
_U8, _S8 = Struct("<Q"), Struct("<q")
_FIXED = {
    c.DW_EH_PE_absptr: _U8,
    c.DW_EH_PE_udata2: _U2,
    c.DW_EH_PE_udata4: _U4,
    c.DW_EH_PE_udata8: _U8,
    c.DW_EH_PE_sdata2: _S2,
    c.DW_EH_PE_sdata4: _S4,
    c.DW_EH_PE_sdata8: _S8,
}


class DwarfError(ValueError):
    """Damaged DWARF, or of a kind that nothing emits for x86-64; says what is wrong."""


class Cursor:
    """A place in some bytes, which moves on with every number that is read.

    `address` is where `data` begins in the file's image, for what is relative to that.
    """

    __slots__ = ("address", "at", "data", "end")

    def __init__(
        self, data: bytes | mmap, address: int = 0, at: int = 0, end: int | None = None
    ) -> None:
        """Begin at offset `at` of `data`, of which what is behind `end` is not read."""
        self.data = data
        self.address = address
        self.at = at
        self.end = len(data) if end is None else end

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        start, stop = self.at, self.at + size
        if stop > self.end:
            raise DwarfError(f"ends {stop - self.end} bytes early")
        self.at = stop
        return self.data[start:stop]

    def fixed(self, layout: Struct) -> int:
        """Return the next number of that size."""
        start = self.at
        self.at = start + layout.size
        if self.at > self.end:
            raise DwarfError(f"ends {self.at - self.end} bytes early")
        value: int = layout.unpack_from(self.data, start)[0]
        return value

    def u1(self) -> int:
        """Return the next byte."""
        at = self.at
        if at >= self.end:
            raise DwarfError("ends a byte early")
        self.at = at + 1
        return self.data[at]

    def s1(self) -> int:
        """Return the next byte, signed."""
        value = self.u1()
        return value - 256 if value & 0x80 else value

    def u2(self) -> int:
        """Return the next 2 bytes."""
        return self.fixed(_U2)

    def s2(self) -> int:
        """Return the next 2 bytes, signed."""
        return self.fixed(_S2)

    def u4(self) -> int:
        """Return the next 4 bytes."""
        return self.fixed(_U4)

    def s4(self) -> int:
        """Return the next 4 bytes, signed."""
        return self.fixed(_S4)

    def u8(self) -> int:
        """Return the next 8 bytes."""
        return self.fixed(_U8)

    def s8(self) -> int:
        """Return the next 8 bytes, signed."""
        return self.fixed(_S8)

    def uleb128(self) -> int:
        """Return the next ULEB128 number (DWARF 5, 7.6)."""
        return self._leb128()[0]

    def sleb128(self) -> int:
        """Return the next SLEB128 number."""
        value, bits = self._leb128()
        return value - (1 << bits) if value >> (bits - 1) else value

    def _leb128(self) -> tuple[int, int]:
        """Return a number's bits and how many there are."""
        value = shift = 0
        while True:
            byte = self.u1()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value, shift
            if shift >= 7 * _LONGEST_LEB128:
                raise DwarfError("a number of more than 64 bits")

    def string(self) -> bytes:
        """Return the bytes up to the next NUL, which is passed."""
        end = self.data.find(b"\0", self.at, self.end)
        if end < 0:
            raise DwarfError("a string without an end")
        found = self.data[self.at : end]
        self.at = end + 1
        return found

    def block(self) -> bytes:
        """Return the bytes whose number, in ULEB128, comes first."""
        return self.take(self.uleb128())

    def pointer(self, encoding: int, data_base: int | None, read: Read) -> int:
        """Return a pointer encoded as `DW_EH_PE_*`.

        `data_base` is what DW_EH_PE_datarel is relative to; `read` is for DW_EH_PE_indirect.
        """
        if encoding == c.DW_EH_PE_aligned:
            self.at += -(self.address + self.at) % 8
            return self.u8()
        here = self.address + self.at
        value = self.encoded(encoding & 0x0F)
        relative = encoding & 0x70
        if not value:  # a null pointer is relative to nothing
            return 0
        if relative == c.DW_EH_PE_pcrel:
            value += here
        elif relative == c.DW_EH_PE_datarel and data_base is not None:
            value += data_base
        elif relative != c.DW_EH_PE_absptr:
            raise DwarfError(f"a pointer of encoding {encoding:#x}")
        value &= ADDRESS_MASK
        if encoding & c.DW_EH_PE_indirect:
            return _U8.unpack(read_exactly(read, value, 8))[0]  # type: ignore[no-any-return]
        return value

    def encoded(self, form: int) -> int:
        """Return the next number of a DW_EH_PE_* format."""
        layout = _FIXED.get(form)
        if layout is not None:
            return self.fixed(layout)
        if form == c.DW_EH_PE_uleb128:
            return self.uleb128()
        if form == c.DW_EH_PE_sleb128:
            return self.sleb128()
        raise DwarfError(f"a pointer of format {form:#x}")


def read_exactly(read: Read, address: int, size: int) -> bytes:
    """Return `size` bytes at an address; DwarfError where a file has fewer."""
    try:
        data = read(address, size)
    except ElfError as error:
        raise DwarfError(str(error)) from None
    if len(data) != size:
        raise DwarfError(f"{size} bytes at {address:#x} are not there")
    return data

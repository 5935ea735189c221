# SPDX-License-Identifier: GPL-2.0-or-later
"""The entries of .eh_frame and .debug_frame: `Cie` and `Fde`, and the section that holds them.

The two sections differ (LSB Core, "Exception Frames"; DWARF 5, 6.4.1) in how an FDE refers to its
CIE, in what marks a CIE, and in pointer encodings and augmentation data, which only .eh_frame has.
An entry is decoded when it is asked for; a CIE is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import ADDRESS_MASK, Cursor, DwarfError, Read, read_exactly

_LARGEST_ENTRY = 1 << 20  # bytes; the largest known are the tables of interpreters, some 100 KB
_EXTENDED = 0xFFFFFFFF  # a length that says that the entry is in the 64-bit format
_RESERVED = 0xFFFFFFF0  # lengths from here on are none (DWARF 5, 7.4)
_DEBUG_FRAME_CIE = (0xFFFFFFFF, (1 << 64) - 1)
_PLAIN_FDE = Struct("<IIQQ")  # length, CIE_pointer, initial_location, address_range


class Cie(NamedTuple):
    """A common information entry: what a number of FDEs have in common."""

    code_alignment: int
    data_alignment: int
    return_address: int
    """The column of the return address."""
    pointer_encoding: int
    augmented: bool
    """Whether FDEs have augmentation data."""
    signal: bool
    """Whether the frames are those of a signal: what they return to was not calling."""
    instructions: bytes
    address: int
    """Where the instructions are."""


class Fde(NamedTuple):
    """A frame description entry: the call frame information of the code in [start, end)."""

    cie: Cie
    start: int
    end: int
    instructions: bytes
    address: int
    """Where the instructions are."""


class _Entry(NamedTuple):
    """An entry whose header was read: `body` begins with the CIE id or pointer."""

    address: int
    wide: bool
    body: Cursor
    next: int


class FrameSection:
    """A .eh_frame or .debug_frame section. Addresses are the image's, or offsets in .debug_frame.

    `size` may be unknown in .eh_frame, which then ends with an entry of length 0.
    """

    def __init__(
        self,
        read: Read,
        address: int,
        size: int | None = None,
        eh: bool = True,
        data_base: int | None = None,
    ) -> None:
        """Use the section at `address` of what `read` reads."""
        self.read = read
        self.address = address
        self.data_base = data_base
        self._size = size
        self._eh = eh
        self._cies: dict[int, Cie] = {}

    def fde(self, address: int) -> Fde:
        """Return the FDE at an address; DwarfError where there is none."""
        entry = self._entry(address)
        found = self._fde(entry) if entry else None
        if found is None:
            raise DwarfError(f"there is no FDE at {address:#x}")
        return found

    def fdes(self) -> Iterator[tuple[int, Fde]]:
        """Return the FDEs and their addresses, in the order of the section.

        One that can't be decoded is left out; all behind an entry of a wrong length are.
        """
        address: int | None = self.address
        while address is not None and (entry := self._entry_or_none(address)):
            with contextlib.suppress(DwarfError):
                if found := self._fde(entry):
                    yield address, found
            address = entry.next

    def starts(self) -> list[tuple[int, int]]:
        """Return where the code of each FDE begins, and the FDE's address, sorted by both.

        FDEs without code are left out; so are those at 0, as code that the linker dropped is in
        .debug_frame.
        """
        found = None if self._eh or self._size is None else self._plain_starts(self._size)
        if found is None:
            found = [(fde.start, at) for at, fde in self.fdes() if fde.end > fde.start > 0]
        return sorted(found)

    def _plain_starts(self, size: int) -> list[tuple[int, int]] | None:
        """Go through a .debug_frame with no more work than it takes, as it has no index.

        None where an entry is in the 64-bit format, or has pointers that are not absolute.
        """
        data, at, found = read_exactly(self.read, self.address, size), 0, list[tuple[int, int]]()
        usable: dict[int, bool] = {_DEBUG_FRAME_CIE[False]: False}
        unpack, last = _PLAIN_FDE.unpack_from, size - _PLAIN_FDE.size
        while at <= last:
            length, reference, start, code = unpack(data, at)
            if length >= _RESERVED:
                return None
            if length > min(_LARGEST_ENTRY, size - at - 4):
                break
            if reference not in usable:
                cie = self._cie_or_none(self.address + reference)
                if cie is not None and cie.pointer_encoding != c.DW_EH_PE_absptr:
                    return None
                usable[reference] = cie is not None
            if usable[reference] and start and code and length >= _PLAIN_FDE.size - 4:
                found.append((start, self.address + at))
            at += 4 + length
        return found

    def _cie_or_none(self, address: int) -> Cie | None:
        try:
            return self._cie(address)
        except DwarfError:
            return None

    def _entry_or_none(self, address: int) -> _Entry | None:
        try:
            return self._entry(address)
        except DwarfError:
            return None

    def _entry(self, address: int) -> _Entry | None:
        """Return the entry at an address, None at the end of the section."""
        end = None if self._size is None else self.address + self._size
        if end is not None and address >= end:
            return None
        length = int.from_bytes(read_exactly(self.read, address, 4), "little")
        start, wide = address + 4, length == _EXTENDED
        if wide:
            length = int.from_bytes(read_exactly(self.read, start, 8), "little")
            start += 8
        if not length and self._eh:
            return None
        if length > _LARGEST_ENTRY or (end is not None and start + length > end):
            raise DwarfError(f"an entry of {length} bytes at {address:#x}")
        body = Cursor(read_exactly(self.read, start, length), start)
        return _Entry(address, wide, body, start + length)

    def _cie_of(self, entry: _Entry) -> int | None:
        """Return the address of the CIE that an entry refers to, None where it is one itself."""
        here = entry.body.address
        reference = entry.body.u8() if entry.wide else entry.body.u4()
        if self._eh:
            return here - reference if reference else None
        return None if reference == _DEBUG_FRAME_CIE[entry.wide] else self.address + reference

    def _cie(self, address: int) -> Cie:
        cie = self._cies.get(address)
        if cie is None:
            entry = self._entry(address)
            if entry is None or self._cie_of(entry) is not None:
                raise DwarfError(f"there is no CIE at {address:#x}")
            cie = self._cies[address] = self._decode_cie(entry.body)
        return cie

    def _decode_cie(self, body: Cursor) -> Cie:
        version = body.u1()
        if version not in (1, 3, 4):
            raise DwarfError(f"a CIE of version {version}")
        augmentation = body.string()
        if augmentation[:2] == b"eh":  # gcc 2: a pointer to its own exception table
            body.u8()
        if version == 4 and (body.u1(), body.u1()) != (8, 0):
            raise DwarfError("a CIE for addresses that are not flat 64-bit ones")
        code, data = body.uleb128(), body.sleb128()
        return_address = body.u1() if version == 1 else body.uleb128()
        encoding, signal = self._augmentation(augmentation, body)
        return Cie(
            code,
            data,
            return_address,
            encoding,
            augmentation[:1] == b"z",
            signal,
            body.data[body.at :],
            body.address + body.at,
        )

    def _augmentation(self, letters: bytes, body: Cursor) -> tuple[int, bool]:
        """Pass the augmentation data; return the encoding of pointers, and whether of a signal."""
        encoding, signal = c.DW_EH_PE_absptr, False
        if letters[:1] != b"z":
            if letters not in (b"", b"eh"):
                raise DwarfError(f"a CIE with augmentation {letters!r}")
            return encoding, signal
        end = body.uleb128() + body.at
        for letter in letters[1:]:
            if letter == ord("R"):
                encoding = body.u1()
            elif letter == ord("S"):
                signal = True
            elif letter == ord("P"):
                self._skip_pointer(body)
            elif letter == ord("L"):
                body.u1()
            else:
                raise DwarfError(f"a CIE with augmentation {letters!r}")
        if not body.at <= end <= body.end:
            raise DwarfError("a CIE with augmentation data of a wrong length")
        body.at = end
        return encoding, signal

    def _skip_pointer(self, body: Cursor) -> None:
        encoding = body.u1()
        if encoding == c.DW_EH_PE_aligned:
            body.at += -(body.address + body.at) % 8
        if encoding != c.DW_EH_PE_omit:
            body.encoded(encoding & 0x0F)

    def _fde(self, entry: _Entry) -> Fde | None:
        """Return what an entry says, None where it is a CIE."""
        reference = self._cie_of(entry)
        if reference is None:
            return None
        cie, body = self._cie(reference), entry.body
        start = body.pointer(cie.pointer_encoding, self.data_base, self.read)
        size = body.encoded(cie.pointer_encoding & 0x0F) & ADDRESS_MASK
        if cie.augmented:
            body.take(body.uleb128())
        instructions = body.data[body.at :]
        return Fde(cie, start, start + size, instructions, body.address + body.at)

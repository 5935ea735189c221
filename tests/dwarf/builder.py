# SPDX-License-Identifier: GPL-2.0-or-later
"""Call frame information made in memory, for what compilers don't make on demand."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.entries import FrameSection

SECTION = 0x1000  # where a section lies in its image
_FORMATS = {
    c.DW_EH_PE_absptr: "<Q", c.DW_EH_PE_udata2: "<H", c.DW_EH_PE_udata4: "<I",
    c.DW_EH_PE_udata8: "<Q", c.DW_EH_PE_sdata2: "<h", c.DW_EH_PE_sdata4: "<i",
    c.DW_EH_PE_sdata8: "<q",
}  # fmt: skip


class CieSpec(NamedTuple):
    """A CIE to be; `data` is the augmentation data, with its length in front where there is a z."""

    augmentation: bytes = b""
    data: bytes = b""
    version: int = 1
    code_alignment: int = 1
    data_alignment: int = -8
    return_address: int = 16
    # DW_CFA_def_cfa: r7 (rsp) ofs 8; DW_CFA_offset: r16 at cfa-8
    instructions: bytes = b"\x0c\x07\x08\x90\x01"


class FdeSpec(NamedTuple):
    """An FDE to be, of the CIE before it; `range` is encoded for it."""

    range: bytes
    instructions: bytes = b""
    data: bytes = b""


def uleb128(value: int) -> bytes:
    """Return ULEB128."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


def sleb128(value: int) -> bytes:
    """Return SLEB128."""
    encoded = bytearray()
    while not -0x40 <= value < 0x40:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value & 0x7F))


def number(value: int, form: int) -> bytes:
    """Return a number in a DW_EH_PE_* format."""
    if form == c.DW_EH_PE_uleb128:
        return uleb128(value)
    if form == c.DW_EH_PE_sleb128:
        return sleb128(value)
    return struct.pack(_FORMATS[form], value)


def build(
    entries: Sequence[CieSpec | FdeSpec], eh: bool = True, wide: bool = False
) -> tuple[bytes, list[int]]:
    """Return a section for the address SECTION, and the addresses of its entries."""
    section, places, cie = b"", [], 0
    for entry in entries:
        places.append(SECTION + len(section))
        if isinstance(entry, CieSpec):
            cie = len(section)
            identity = 0 if eh else (1 << 64 if wide else 1 << 32) - 1
            body = _cie(entry)
        else:
            here = len(section) + (12 if wide else 4)
            identity = here - cie if eh else cie
            body = entry.range + entry.data + entry.instructions
        section += _entry(identity, body, wide)
    return section + (bytes(4) if eh else b""), places


def _entry(identity: int, body: bytes, wide: bool) -> bytes:
    if wide:
        return struct.pack("<IQQ", 0xFFFFFFFF, 8 + len(body), identity) + body
    return struct.pack("<II", 4 + len(body), identity) + body


def _cie(entry: CieSpec) -> bytes:
    body = bytes((entry.version,)) + entry.augmentation + b"\0"
    if entry.version == 4:
        body += bytes((8, 0))  # address_size, segment_selector_size
    body += uleb128(entry.code_alignment) + sleb128(entry.data_alignment)
    body += bytes((entry.return_address,)) if entry.version == 1 else uleb128(entry.return_address)
    return body + entry.data + entry.instructions


def section(data: bytes, eh: bool = True, data_base: int | None = None) -> FrameSection:
    """Return the section `data` for reading; addresses are as in `build`."""

    def read(address: int, size: int) -> bytes:
        return data[max(0, address - SECTION) : max(0, address - SECTION + size)]

    return FrameSection(read, SECTION, len(data), eh=eh, data_base=data_base)

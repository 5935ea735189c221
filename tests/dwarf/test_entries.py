# SPDX-License-Identifier: GPL-2.0-or-later
"""CIEs and FDEs in every form that the specifications allow on x86-64."""

from __future__ import annotations

import struct

import pytest

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cfi import row_at
from hotpatch.dwarf.cursor import Cursor, DwarfError
from tests.dwarf.builder import SECTION, CieSpec, FdeSpec, build, number, section, sleb128, uleb128

FIXED = [
    c.DW_EH_PE_absptr, c.DW_EH_PE_udata2, c.DW_EH_PE_udata4, c.DW_EH_PE_udata8,
    c.DW_EH_PE_sdata2, c.DW_EH_PE_sdata4, c.DW_EH_PE_sdata8,
]  # fmt: skip
LEB = [c.DW_EH_PE_uleb128, c.DW_EH_PE_sleb128]
START, SIZE = 0x1234, 0x100


@pytest.mark.parametrize("value", [0, 1, 0x3F, 0x40, 0x7F, 0x80, 0x3FFF, 0x4000, (1 << 64) - 1])
def test_uleb128(value: int) -> None:
    cursor = Cursor(uleb128(value) + b"x")
    assert (cursor.uleb128(), cursor.u1()) == (value, ord("x"))


@pytest.mark.parametrize("value", [0, 1, -1, 0x3F, -0x40, 0x40, -0x41, 0x7FFF, -(1 << 63)])
def test_sleb128(value: int) -> None:
    cursor = Cursor(sleb128(value) + b"x")
    assert (cursor.sleb128(), cursor.u1()) == (value, ord("x"))


def test_a_number_without_an_end_is_refused() -> None:
    with pytest.raises(DwarfError, match="64 bits"):
        Cursor(b"\x80" * 100).uleb128()
    with pytest.raises(DwarfError, match="early"):
        Cursor(b"\x80").uleb128()


@pytest.mark.parametrize("form", FIXED + LEB)
@pytest.mark.parametrize("relative", [c.DW_EH_PE_absptr, c.DW_EH_PE_pcrel, c.DW_EH_PE_datarel])
def test_pointer_encodings(form: int, relative: int) -> None:
    data_base = 0x1100
    cie = CieSpec(b"zR", b"\x01" + bytes((relative | form,)))
    _, (_, fde_address) = build([cie, FdeSpec(b"")])
    base = {c.DW_EH_PE_absptr: 0, c.DW_EH_PE_pcrel: fde_address + 8, c.DW_EH_PE_datarel: data_base}
    code = number(START - base[relative], form) + number(SIZE, form)
    data, _ = build([cie, FdeSpec(code, data=b"\x00")])
    ((_, fde),) = section(data, data_base=data_base).fdes()
    assert (fde.start, fde.end) == (START, START + SIZE)


def test_an_indirect_pointer_is_followed() -> None:
    encoding = c.DW_EH_PE_indirect | c.DW_EH_PE_pcrel | c.DW_EH_PE_sdata4
    cie = CieSpec(b"zR", bytes((1, encoding)))
    bare, (_, fde_address) = build([cie, FdeSpec(bytes(8), data=b"\x00")])
    distance = SECTION + len(bare) - (fde_address + 8)
    data, _ = build([cie, FdeSpec(struct.pack("<ii", distance, SIZE), data=b"\x00")])
    ((_, fde),) = section(data + struct.pack("<Q", START)).fdes()
    assert (fde.start, fde.end) == (START, START + SIZE)


def test_an_aligned_pointer_is_preceded_by_padding() -> None:
    cie = CieSpec(b"zR", bytes((1, c.DW_EH_PE_aligned)))
    data, (_, fde_address) = build([cie, FdeSpec(b"")])
    padding = bytes(-(fde_address + 8) % 8)
    code = padding + struct.pack("<QQ", START, SIZE)
    data, _ = build([cie, FdeSpec(code, data=b"\x00")])
    ((_, fde),) = section(data).fdes()
    assert (fde.start, fde.end) == (START, START + SIZE)


ABSOLUTE = struct.pack("<QQ", START, SIZE)


@pytest.mark.parametrize("eh", [True, False])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("version", [1, 3, 4])
def test_versions_and_formats(eh: bool, wide: bool, version: int) -> None:
    advance = b"\x44\x0e\x10"  # DW_CFA_advance_loc: 4; DW_CFA_def_cfa_offset: 16
    data, _ = build([CieSpec(version=version), FdeSpec(ABSOLUTE, advance)], eh, wide)
    frames = section(data, eh)
    ((address, fde),) = frames.fdes()
    assert (fde.start, fde.end) == (START, START + SIZE)
    assert frames.fde(address) == fde
    assert [row_at(fde, START + at, frames.read).cfa.offset for at in (0, 3, 4)] == [8, 8, 16]


@pytest.mark.parametrize(
    "augmentation, data, signal, in_fde",
    [
        (b"", b"", False, b""),
        (b"eh", b"", False, b""),
        (b"z", b"\x00", False, b"\x00"),
        (b"zR", b"\x01\x00", False, b"\x00"),
        (b"zRS", b"\x01\x00", True, b"\x00"),
        (b"zS", b"\x00", True, b"\x00"),
        (b"zPLR", b"\x0b\x00" + bytes(8) + b"\x1b\x00", False, b"\x04abcd"),
        (b"zPLR", b"\x07\x9b" + bytes(4) + b"\x1b\x00", False, b"\x04abcd"),
        (b"zRP", b"\x02\x00\xff", False, b"\x00"),
        (b"zR", b"\x05\x00more", False, b"\x00"),
    ],
)
def test_augmentations(augmentation: bytes, data: bytes, signal: bool, in_fde: bytes) -> None:
    cie = CieSpec(augmentation, data)
    if augmentation == b"eh":  # the pointer comes before the alignment factors
        cie = CieSpec(b"eh\0" + bytes(7))
    made, _ = build([cie, FdeSpec(ABSOLUTE, b"\x0e\x20", in_fde)])
    ((_, fde),) = section(made).fdes()
    assert (fde.start, fde.end, fde.cie.signal) == (START, START + SIZE, signal)
    assert row_at(fde, START, section(made).read).cfa.offset == 32


@pytest.mark.parametrize(
    "cie, reason",
    [
        (CieSpec(version=2), "version 2"),
        (CieSpec(b"zX", b"\x00"), "augmentation"),
        (CieSpec(b"Q"), "augmentation"),
        (CieSpec(b"zR", b"\x7f\x00"), "wrong length"),
        (CieSpec(b"zR", b"\x00\x00"), "wrong length"),
    ],
)
def test_what_is_not_known_is_refused(cie: CieSpec, reason: str) -> None:
    data, (_, address) = build([cie, FdeSpec(ABSOLUTE, data=b"\x00")])
    with pytest.raises(DwarfError, match=reason):
        section(data).fde(address)
    assert not list(section(data).fdes())


@pytest.mark.parametrize("relative", [c.DW_EH_PE_textrel, c.DW_EH_PE_funcrel, c.DW_EH_PE_datarel])
def test_a_base_that_is_not_known_is_refused(relative: int) -> None:
    data, (_, address) = build(
        [CieSpec(b"zR", bytes((1, relative))), FdeSpec(ABSOLUTE, data=b"\x00")]
    )
    with pytest.raises(DwarfError, match="encoding"):
        section(data).fde(address)


def test_one_damaged_entry_hides_no_other() -> None:
    good, other = FdeSpec(ABSOLUTE), FdeSpec(struct.pack("<QQ", 0x9000, 16))
    data, places = build([CieSpec(), good, CieSpec(version=9), good, CieSpec(), other])
    assert [fde.start for _, fde in section(data).fdes()] == [START, 0x9000]
    assert section(data).fde(places[5]).start == 0x9000


@pytest.mark.parametrize("eh", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_where_code_begins(eh: bool, wide: bool) -> None:
    """In bulk or one by one: sorted, without what is damaged, dropped or empty."""
    codes = [(0x9000, 16), (START, SIZE), (0, 16), (0x8000, 0)]
    fdes = [FdeSpec(struct.pack("<QQ", *code), b"\0" * n) for n, code in enumerate(codes)]
    data, places = build([CieSpec(), *fdes, CieSpec(version=9), fdes[0]], eh, wide)
    expected = [(START, places[2]), (0x9000, places[1])]
    assert section(data, eh).starts() == expected
    # An entry that is longer than the section hides those behind it, and no other.
    broken = bytearray(data)
    at = places[2] - SECTION + (4 if wide else 0)
    broken[at : at + 4] = b"\xff\xff\xff\x7f"
    assert section(bytes(broken), eh).starts() == expected[1:]


def test_encoded_pointers_in_debug_frame_are_followed() -> None:
    cie = CieSpec(b"zR", bytes((1, c.DW_EH_PE_udata4)))
    code = struct.pack("<II", START, SIZE)
    data, (_, fde) = build([cie, FdeSpec(code, b"\0" * 16, b"\x00")], eh=False)
    assert section(data, eh=False).starts() == [(START, fde)]


def test_there_is_an_fde_only_where_there_is_one() -> None:
    data, (cie, fde) = build([CieSpec(), FdeSpec(ABSOLUTE)])
    for wrong in (cie, fde + 1, SECTION + len(data) - 4, SECTION + len(data), 0):
        with pytest.raises(DwarfError):
            section(data).fde(wrong)


def test_a_cie_is_not_an_fde_nor_the_other_way_round() -> None:
    data, (_, fde) = build([CieSpec(), FdeSpec(ABSOLUTE)])
    pointing_to_itself = bytearray(data)
    struct.pack_into("<I", pointing_to_itself, fde + 4 - SECTION, 4)
    with pytest.raises(DwarfError, match="no CIE"):
        section(bytes(pointing_to_itself)).fde(fde)

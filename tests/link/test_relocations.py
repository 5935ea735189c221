# SPDX-License-Identifier: GPL-2.0-or-later
"""Every relocation type: its arithmetic, and what the linker does with it or says against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotpatch.arch import relocations as r
from hotpatch.errors import Refused
from hotpatch.link import layout
from hotpatch.link.image import LinkedImage, link
from hotpatch.patch.file import PatchFile
from tests.link.conftest import CompilePatch, Host, StartHost

O = r.Operands(A=0x10, B=0x7F0000000000, P=0x400000, S=0x401000, Z=24)  # noqa: E741

TABLE = {
    # psABI, table 4.9: type, number, bytes of the field, value of it for the operands above
    "R_X86_64_64": (1, 8, 0x401010),
    "R_X86_64_PC32": (2, 4, 0x1010),
    "R_X86_64_PLT32": (4, 4, 0x1010),
    "R_X86_64_GLOB_DAT": (6, 8, 0x401000),
    "R_X86_64_JUMP_SLOT": (7, 8, 0x401000),
    "R_X86_64_RELATIVE": (8, 8, 0x7F0000000010),
    "R_X86_64_32": (10, 4, 0x401010),
    "R_X86_64_32S": (11, 4, 0x401010),
    "R_X86_64_PC64": (24, 8, 0x1010),
    "R_X86_64_SIZE32": (32, 4, 0x28),
    "R_X86_64_SIZE64": (33, 8, 0x28),
}


@pytest.mark.parametrize("name", TABLE)
def test_arithmetic(name: str) -> None:
    number, size, value = TABLE[name]
    assert r.relocation_name(number) == name
    assert r.relocated(number, O) == value.to_bytes(size, "little")


@pytest.mark.parametrize(
    ("name", "fits", "does_not"),
    [
        ("R_X86_64_PC32", (-(1 << 31), (1 << 31) - 1), (-(1 << 31) - 1, 1 << 31)),
        ("R_X86_64_32S", (-(1 << 31), (1 << 31) - 1), (-(1 << 31) - 1, 1 << 31)),
        ("R_X86_64_32", (0, (1 << 32) - 1), (-1, 1 << 32)),
        ("R_X86_64_16", (0, 0xFFFF), (-1, 0x10000)),
        ("R_X86_64_PC16", (-0x8000, 0x7FFF), (-0x8001, 0x8000)),
        ("R_X86_64_8", (0, 0xFF), (-1, 0x100)),
        ("R_X86_64_PC8", (-0x80, 0x7F), (-0x81, 0x80)),
    ],
)
def test_range(name: str, fits: tuple[int, int], does_not: tuple[int, int]) -> None:
    number = getattr(r, name)
    for value in fits:
        field = r.relocated(number, r.Operands(A=value))
        signed = "PC" in name or name.endswith("S")
        assert int.from_bytes(field, "little", signed=signed) == value
    for value in does_not:
        with pytest.raises(r.RelocationOverflow, match=name):
            r.relocated(number, r.Operands(A=value))


@pytest.mark.parametrize("value", [-1, 1 << 64, -(1 << 63)])
def test_64_bits_wrap(value: int) -> None:
    field = r.relocated(r.R_X86_64_64, r.Operands(S=value))
    assert int.from_bytes(field, "little") == value % (1 << 64)


def test_names() -> None:
    assert r.relocation_name(r.R_X86_64_COPY) == "R_X86_64_COPY"
    assert r.relocation_name(199) == "relocation type 199"
    with pytest.raises(KeyError):
        r.relocated(r.R_X86_64_COPY, O)


# ---- in a patch: the type of one relocation is changed in the file ----

TEXT = """
int compute(int x) { return x; }
HOTPATCH_REPLACE(compute);
extern int limit;
int *slot = &limit + 3;
"""


class Changed:
    """A patch of which the relocation at `slot`, to the target's `limit`, is of another type."""

    def __init__(self, host: Host, compile_patch: CompilePatch) -> None:
        self._host = host
        self._path = compile_patch(TEXT).path
        self._content = Path(self._path).read_bytes()
        self.base = 0x7F1234560000

    def link(self, number: int, addend: int = 12) -> LinkedImage:
        patch = PatchFile.open(self._path)
        (symbol,) = patch.elf.symbols.by_name("slot")
        (old,) = (x for x in patch.elf.relocations if x.offset == symbol.value)
        assert (old.type, old.addend) == (r.R_X86_64_64, 12)
        info = old.symbol_index << 32
        entry = _entry(old.offset, info | old.type, 12)
        assert self._content.count(entry) == 1
        changed = self._content.replace(entry, _entry(old.offset, info | number, addend))
        Path(self._path).write_bytes(changed)
        try:
            image = link(self._host.process, PatchFile.open(self._path), self.base, {"compute": 0})
        finally:
            Path(self._path).write_bytes(self._content)
        self.place = symbol.value
        return image

    def field(self, number: int, size: int, addend: int = 12) -> int:
        image = self.link(number, addend)
        return int.from_bytes(image.content[self.place : self.place + size], "little")


def _entry(offset: int, info: int, addend: int) -> bytes:
    return b"".join(
        value.to_bytes(8, "little", signed=value < 0) for value in (offset, info, addend)
    )


@pytest.fixture
def changed(start_host: StartHost, compile_patch: CompilePatch) -> Changed:
    return Changed(start_host("no-pie"), compile_patch)


def test_done(changed: Changed, start_host: StartHost) -> None:
    limit = start_host("no-pie").symbol("limit")
    assert changed.field(r.R_X86_64_64, 8) == limit + 12
    assert changed.field(r.R_X86_64_GLOB_DAT, 8) == limit
    assert changed.field(r.R_X86_64_32, 4) == limit + 12
    assert changed.field(r.R_X86_64_32S, 4) == limit + 12
    place = changed.base + changed.place
    assert changed.field(r.R_X86_64_PC64, 8) == (limit + 12 - place) % (1 << 64)
    assert changed.field(r.R_X86_64_SIZE64, 8) == 4 + 12
    assert changed.field(r.R_X86_64_SIZE32, 4, -1) == 3
    assert changed.field(r.R_X86_64_RELATIVE, 8, 0x1000) == changed.base + 0x1000
    changed.base = limit & -4096
    for number in (r.R_X86_64_PC32, r.R_X86_64_PLT32):
        place = changed.base + changed.place
        assert changed.field(number, 4) == (limit + 12 - place) % (1 << 32)


def test_none_leaves_the_field(changed: Changed) -> None:
    assert changed.field(r.R_X86_64_NONE, 8) == 0


def test_indirect(changed: Changed) -> None:
    (call,) = changed.link(r.R_X86_64_IRELATIVE, 0x1234).calls
    assert call == ("ifunc", changed.base + 0x1234, changed.base + changed.place)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PC32", "reaches only nearby addresses: R_X86_64_PC32"),
        ("PLT32", "reaches only nearby addresses: R_X86_64_PLT32"),
        ("JUMP_SLOT", "`limit` is a function in the patch, but a variable in the target"),
        ("COPY", "can't be done: R_X86_64_COPY"),
        ("GOT32", "can't be done: R_X86_64_GOT32"),
        ("GOTPCREL", "can't be done: R_X86_64_GOTPCREL"),
        ("RELATIVE64", "can't be done: R_X86_64_RELATIVE64"),
        ("TPOFF64", "`limit` is thread-local in the patch, but not in the target"),
        ("DTPMOD64", "`limit` is thread-local in the patch, but not in the target"),
    ],
)
def test_refused(name: str, reason: str, changed: Changed) -> None:
    with pytest.raises(Refused) as caught:
        changed.link(getattr(r, f"R_X86_64_{name}"))
    assert reason in caught.value.reason and caught.value.hint


def test_unknown(changed: Changed) -> None:
    with pytest.raises(Refused, match="can't be done: relocation type 77 at 0x"):
        changed.link(77)


# ---- protections ----


def test_relro_is_read_only_from_the_start(
    start_host: StartHost, compile_patch: CompilePatch
) -> None:
    text = "static int *const table[2000] = { (int *)table }; int *const *f(void) { return table; }"
    patch = compile_patch(TEXT + text, "-Wl,-z,relro")
    image = link(start_host("pie").process, patch, 0x7F1234560000, {"compute": 0})
    symbol = next(s for s in patch.elf.symbols if s.name == "table")
    prot = {page: run.prot for run in image.runs for page in layout.pages(run.address, run.size)}
    middle = (image.bias + symbol.value + symbol.size // 2) & -4096
    assert prot[middle] == 1
    slot = next(s for s in patch.elf.symbols if s.name == "slot")
    assert prot[(image.bias + slot.value) & -4096] == 3


def test_content_ends_where_the_file_does(
    start_host: StartHost, compile_patch: CompilePatch
) -> None:
    text = "static char zeros[50 << 20]; char *f(void) { return zeros; }"
    patch = compile_patch(TEXT + text)
    image = link(start_host("pie").process, patch, 0x7F1234560000, {"compute": 0})
    assert image.size > 50 << 20 > len(image.content)


def test_base_must_be_a_page(start_host: StartHost, compile_patch: CompilePatch) -> None:
    with pytest.raises(ValueError, match="not the start of a page"):
        link(start_host("pie").process, compile_patch(TEXT), 0x7F1234560010, {"compute": 0})

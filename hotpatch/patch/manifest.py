# SPDX-License-Identifier: GPL-2.0-or-later
"""What a patch says about itself: the records that `hotpatch.h` leaves in the shared object.

Each declaration of the header is one `struct hotpatch_record` in the section `hotpatch_records`:
a kind, the version of that kind's meaning, two strings and an address. In the file its
pointers are relocations still to be done, and they are read as what the relocation will make of
them. No symbol table is needed, so that a stripped patch has its manifest.

A record of a kind or version that is not known here was made by a newer header, for something
that this hotpatch would leave undone. Such a patch is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch.relocations import R_X86_64_64, R_X86_64_RELATIVE, relocation_name
from hotpatch.elf import constants as elf_constants
from hotpatch.errors import Refused

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.elf.relocations import Relocation

SECTION = "hotpatch_records"

_RECORD = Struct("<IIQQQ")  # kind, version, name, extra, address
NAME_FIELD, EXTRA_FIELD, ADDRESS_FIELD = 8, 16, 24  # offsets of the pointers
_VERSION = 1
_LONGEST_STRING = 4096

REPLACE, STATIC, BUILD_ID, NAME, DESCRIPTION = range(1, 6)
# From here on, no single bit turns another kind into one.
UPDATE_POINT, TRANSFER, REVERSE, CHECK, RUNTIME, ADAPT = 8, 14, 23, 25, 26, 28
REPLACE_AT, FACT, REASON = 38, 49, 50
UNAFFECTED, TYPE = 41, 42
_KINDS = (
    *(REPLACE, STATIC, BUILD_ID, NAME, DESCRIPTION),
    *(UPDATE_POINT, TRANSFER, REVERSE, CHECK, RUNTIME, ADAPT),
    *(REPLACE_AT, FACT, REASON, UNAFFECTED, TYPE),
)


KINDS = {CHECK: "check", TRANSFER: "transfer", REVERSE: "reverse"}
"""What functions that carry state over are called."""


class Replacement(NamedTuple):
    """A function of the target and what takes its place."""

    name: str
    """The function's name in the target."""
    file: str | None
    """The source file that defines it, for a static function whose name alone is not enough."""
    value: int
    """Virtual address of the new function in the patch."""
    symbol: str
    """Name of the new function in the patch's source."""
    adapts: bool = False
    """The function of that name in the patch is another one, and this one is for old callers."""
    places: tuple[tuple[int, int], ...] = ()
    """Where a built patch knows the code to be: virtual addresses and sizes, the entry's first."""


class UpdatePoint(NamedTuple):
    """A function of the target at whose entry a thread may be at the commit, whatever called it."""

    name: str
    file: str | None
    """The source file that defines it, for a static function whose name alone is not enough."""


class TypeChange(NamedTuple):
    """A type of the target that is another one with the patch: spelled as C does."""

    target: str
    """What the target calls it."""
    old: str
    """What the patch calls it as the target has it."""
    new: str
    """What the patch makes of it."""


class Unaffected(NamedTuple):
    """A function of the target that goes on working with the types that the patch changes."""

    name: str
    file: str | None


class Transfer(NamedTuple):
    """A function of the patch that is run at the commit (`kind` CHECK, TRANSFER) or a REVERSE."""

    kind: int
    name: str
    file: str
    line: int
    value: int
    """Virtual address of the function in the patch."""


class Runtime(NamedTuple):
    """Virtual addresses in a patch: its `struct hotpatch_runtime`, and what works on its log."""

    state: int
    rollback: int
    settle: int


class StaticReference(NamedTuple):
    """The undefined symbol `alias` of the patch means the static `name` of `file` in the target."""

    alias: str
    file: str
    name: str


class Record(NamedTuple):
    """A `struct hotpatch_record` with its strings read and its address a virtual one.

    `data` is the virtual address in the place of `extra`, where that points to no string.
    """

    kind: int
    name: str | None
    extra: str | None
    address: int | None
    data: int | None


class Manifest(NamedTuple):
    """Everything that the records of a patch say."""

    replacements: tuple[Replacement, ...] = ()
    statics: tuple[StaticReference, ...] = ()
    build_ids: tuple[tuple[str | None, str], ...] = ()
    name: str | None = None
    description: str | None = None
    points: tuple[UpdatePoint, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    """In the order in which they are to be run."""
    runtime: Runtime | None = None
    types: tuple[TypeChange, ...] = ()
    unaffected: tuple[Unaffected, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """What it was made of, and for: pairs of a key and a text."""
    reasons: tuple[tuple[str, str], ...] = ()
    """Why each function and variable is in a built patch."""


def read_manifest(elf: ElfFile) -> Manifest:
    """Return the manifest in `elf`, empty where it has no records.

    Raises `Refused` for records that are damaged or made for a newer hotpatch, and `ElfError`.
    """
    records = list(_records(elf))
    return Manifest(
        tuple(_replacement(r) for r in records if r.kind in (REPLACE, ADAPT, REPLACE_AT)),
        _static_references(records),
        tuple(_build_id(record) for record in records if record.kind == BUILD_ID),
        _text(records, NAME),
        _text(records, DESCRIPTION),
        tuple(_point(record) for record in records if record.kind == UPDATE_POINT),
        _transfers(records),
        _runtime(records),
        tuple(dict.fromkeys(_type(record) for record in records if record.kind == TYPE)),
        tuple(_unaffected(record) for record in records if record.kind == UNAFFECTED),
        _texts(records, FACT),
        _texts(records, REASON),
    )


def pack_record(kind: int) -> bytes:
    """Return a record without its pointers, which are relocations' to fill."""
    return _RECORD.pack(kind, _VERSION, 0, 0, 0)


def records_range(elf: ElfFile) -> range:
    """Return the virtual addresses of the records, empty where there are none."""
    for section in elf.sections:
        if section.name == SECTION:
            return range(section.addr, section.addr + section.size)
    return range(0)


def _records(elf: ElfFile) -> Iterator[Record]:
    place = records_range(elf)
    if not place:
        return
    size = place.stop - place.start
    if size % _RECORD.size:
        raise _damaged(f"{size} bytes are no whole number of records")
    content = elf.read(place.start, size)  # checks the size
    relocations = {r.offset: r for r in elf.relocations if r.offset in place}
    for address, raw in zip(place[:: _RECORD.size], _RECORD.iter_unpack(content), strict=True):
        yield _record(elf, relocations, address, raw)


def _record(
    elf: ElfFile, relocations: dict[int, Relocation], address: int, raw: tuple[int, ...]
) -> Record:
    kind, version, *pointers = raw
    if kind not in _KINDS or version != _VERSION:
        raise Refused(
            f"the patch was made for a newer hotpatch: its manifest has a record of "
            f"kind {kind}, version {version}",
            "upgrade hotpatch, or compile the patch with this version's hotpatch.h",
        )
    name, extra, function = (
        _pointer(elf, relocations.get(address + offset), value)
        for offset, value in zip((NAME_FIELD, EXTRA_FIELD, ADDRESS_FIELD), pointers, strict=True)
    )
    if kind == RUNTIME:
        return Record(kind, string_at(elf, name), None, function, extra)
    return Record(kind, string_at(elf, name), string_at(elf, extra), function, None)


def _pointer(elf: ElfFile, relocation: Relocation | None, in_place: int) -> int | None:
    """Return the virtual address that a pointer will hold, None for a null pointer."""
    if relocation is None:
        if in_place:
            raise _damaged(f"a pointer to {in_place:#x} without a relocation")
        return None
    if relocation.type == R_X86_64_RELATIVE:
        return in_place if relocation.addend is None else relocation.addend
    if relocation.type != R_X86_64_64:
        raise _damaged(f"a pointer with {relocation_name(relocation.type)}")
    symbol = elf.dynamic_symbols[relocation.symbol_index]
    if symbol.section == elf_constants.SHN_UNDEF:
        raise Refused(
            f"the patch says it replaces a function by `{symbol.name}`, which it does not define",
            "define the function in the patch, or remove its HOTPATCH_REPLACE",
        )
    return symbol.value + (relocation.addend or 0)


def string_at(elf: ElfFile, address: int | None) -> str | None:
    """Return the string at a virtual address of a patch; raises Refused where there is none."""
    if address is None:
        return None
    for segment in elf.segments:
        start = address - segment.vaddr
        if segment.type == elf_constants.PT_LOAD and 0 <= start < segment.filesz:
            raw = elf.read(address, min(_LONGEST_STRING, segment.filesz - start))
            text, end, _ = raw.partition(b"\0")
            return _decoded(text) if end else _unreadable(address)
    return _unreadable(address)


def _decoded(text: bytes) -> str:
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise _damaged(f"a string is not UTF-8: {text[:40]!r}") from None
    if not decoded.isprintable():
        raise _damaged(f"a string with control characters: {decoded[:40]!r}")
    return decoded


def _unreadable(address: int) -> str:
    raise _damaged(f"no string at {address:#x}")


def _damaged(what: str) -> Refused:
    return Refused(f"the patch's manifest is damaged: {what}", "compile the patch anew")


def _replacement(record: Record) -> Replacement:
    name, _, symbol = (record.name or "").partition("=")
    if not (name and symbol) or record.address is None:
        raise _damaged(f"a replacement of {record.name!r} by {record.address}")
    if record.kind == REPLACE_AT:
        return Replacement(name, None, record.address, symbol, places=_places(record.extra or ""))
    return Replacement(name, record.extra, record.address, symbol, record.kind == ADAPT)


def _places(text: str) -> tuple[tuple[int, int], ...]:
    found = re.fullmatch(r"0x[0-9a-f]{1,16}\+\d{1,9}(?: 0x[0-9a-f]{1,16}\+\d{1,9})*", text)
    if not found:
        raise _damaged(f"code at {text[:40]!r}")
    pairs = (each.split("+") for each in text.split(" "))
    return tuple((int(address, 16), int(size)) for address, size in pairs)


def _point(record: Record) -> UpdatePoint:
    if not record.name:
        raise _damaged("an update point without a name")
    return UpdatePoint(record.name, record.extra)


def _type(record: Record) -> TypeChange:
    target, _, new = (record.name or "").partition("=")
    if not (target and new and record.extra):
        raise _damaged(f"a change of the type {record.name!r} from {record.extra!r}")
    return TypeChange(_spelled(target), _spelled(record.extra), _spelled(new))


def _spelled(type_: str) -> str:
    return " ".join(type_.split())


def _unaffected(record: Record) -> Unaffected:
    if not record.name:
        raise _damaged("an unaffected function without a name")
    return Unaffected(record.name, record.extra)


def _transfers(records: list[Record]) -> tuple[Transfer, ...]:
    """Return checks and transfers in the order of their source; compilers have one of their own."""
    found = [_transfer(record) for record in records if record.kind in (TRANSFER, REVERSE, CHECK)]
    files = [transfer.file for transfer in found]
    return tuple(sorted(found, key=lambda t: (files.index(t.file), t.line)))


def _transfer(record: Record) -> Transfer:
    file, _, line = (record.extra or "").rpartition(":")
    if not (record.name and file and line.isdecimal()) or record.address is None:
        raise _damaged(f"a transfer {record.name!r} of {record.extra!r}")
    return Transfer(record.kind, record.name, file, int(line), record.address)


def _runtime(records: list[Record]) -> Runtime | None:
    """Return the runtime: every source file has its own functions for the one log."""
    found = [record for record in records if record.kind == RUNTIME]
    functions = {record.name: record.address for record in found}
    rollback, settle = functions.get("rollback"), functions.get("settle")
    states = {record.data for record in found}
    if not found and not any(record.kind in (TRANSFER, REVERSE, CHECK) for record in records):
        return None
    state = states.pop() if len(states) == 1 else None
    if rollback is None or settle is None or state is None:
        raise _damaged("its transfers have no runtime, or several")
    return Runtime(state, rollback, settle)


def _static_references(records: list[Record]) -> tuple[StaticReference, ...]:
    meanings: dict[str, StaticReference] = {}
    for record in records:
        if record.kind != STATIC:
            continue
        reference = _static_reference(record)
        known = meanings.setdefault(reference.alias, reference)
        if known != reference:
            raise Refused(
                f"`{reference.alias[len(ALIAS) :]}` is declared as the static `{known.name}` of "
                f"{known.file} and as `{reference.name}` of {reference.file}",
                "give one of them a name of its own with HOTPATCH_EXTERN_STATIC_AS",
            )
    return tuple(meanings.values())


ALIAS = "__hotpatch_static_"
"""What the header puts before the alias of a static to make its symbol."""


def _static_reference(record: Record) -> StaticReference:
    alias, _, name = (record.name or "").partition("=")
    if not (alias and name and record.extra):
        raise _damaged(f"a static {record.name!r} of file {record.extra!r}")
    return StaticReference(ALIAS + alias, record.extra, name)


def _build_id(record: Record) -> tuple[str | None, str]:
    identifier = (record.extra or "").lower()
    if not identifier or set(identifier) - set("0123456789abcdef"):
        raise Refused(
            f"the patch is made for the build-id {record.extra!r}, which is not hexadecimal",
            "write it as `readelf -n` prints it",
        )
    return record.name or None, identifier


def _texts(records: list[Record], kind: int) -> tuple[tuple[str, str], ...]:
    return tuple((r.name or "", r.extra or "") for r in records if r.kind == kind)


def _text(records: list[Record], kind: int) -> str | None:
    texts = [record.name for record in records if record.kind == kind]
    return texts[-1] if texts else None

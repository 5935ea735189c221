# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of a patch, kept in the target itself.

Each patch has one region of memory in the target, and where it also patches modules out of
reach of that, a further region near each. A region begins with a header page or more: a mapping
that /proc/PID/maps shows as `/memfd:hotpatch`. It holds the switch and, as JSON, everything that a
later patcher needs to list the patch, revert it, finish it or remove it.

What counts is not what a header says but what is: a patch is in force when its switch is set, and
armed as long as an entry leads to its gate. `state` only tells how far its patcher meant to go.

    offset  size  field
    0       8     magic, "HOTPATCH"
    8       4     format of this header, 3
    12      4     state
    16      4     switch: bit 0 is 0 for old, 1 for new; with bit 31, callers wait at their doors
    20      4     size of the JSON text
    24      4     CRC-32 of the JSON text
    28      4     what is known of coroutines (hotpatch.update.coroutines), 0 for nothing
    32      8     time of the commit, ns since the epoch
    40      4     pid, as the target sees it, of a child that was made of it to be looked at and has
                  to be reaped; 0 for none
    48      8     when that child was made at the earliest, in clock ticks since boot
    64            JSON text
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from hotpatch.errors import Refused
from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory
from hotpatch.linux.procfs import Mapping

MAGIC = b"HOTPATCH"
FORMAT = 3
NAME = "hotpatch"
MAPPING = f"/memfd:{NAME}-"
_NAMED = re.compile(MAPPING + r"[0-9a-f]{1,16}-[0-9a-f]{1,12}(?: \(deleted\))?")
"""How the path of a region's header begins in /proc/PID/maps."""
STATE_OFFSET, SWITCH_OFFSET, TIME_OFFSET, CHILD_OFFSET = 12, 16, 32, 40
COROUTINES_OFFSET = 28
_HEADER = struct.Struct("<8sIIIIIIQ")
_TEXT_OFFSET = 64

STAGED, APPLIED, REVERTING = 1, 2, 3
OFF, ON, WAIT = 0, 1, 1 << 31
_LARGEST = 64 << 20
_PAGE = 4096
_SHAPES, _SHAPE = 64, 45  # the number of pages of a region, modulo the first, is the second
STACK_SIZE = 256 << 10
STACK_GUARD = (52 << 10, 16 << 10)
"""How large the memory at a record's `stack` is, and the (offset, size) of the part of it that is
not writable: the stack proper grows down to its end, and what else the memory is for lies below."""


class Write(NamedTuple):
    """Bytes for an address."""

    address: int
    data: bytes


class Function(NamedTuple):
    """A replaced function as the ledger has it; all addresses are run-time addresses.

    `old` is the entry, `new` the replacement and `code` the (address, size) ranges of its code;
    `gate` is (address, size), `under` the gate of the patch below, 0 where the old path is the
    original. `door` is the word that makes callers wait, 0 where there is none, and `waiting` the
    (start, end) of the part of the gate in which they do. `arm` and `disarm` are the writes that
    redirect the entry and restore it, for which no thread may be strictly inside a (start, end) of
    `guarded`. `frames` are (offset, address, lowered): from that offset of the gate on, the stack
    is as in the old function at that address, but rsp is so many bytes lower. `point`: it is an
    update point. One that is not replaced has `new` 0, and its gate leads to the old path anyway.
    """

    name: str
    module: str
    old: int
    new: int
    code: tuple[tuple[int, int], ...]
    gate: tuple[int, int]
    frames: tuple[tuple[int, int, int], ...]
    under: int
    door: int
    waiting: tuple[int, int]
    guarded: tuple[tuple[int, int], ...]
    arm: tuple[Write, ...]
    disarm: tuple[Write, ...]
    point: bool

    @property
    def decided(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the (start, end) ranges of the gate in which a call is old or new already."""
        start, size = self.gate
        return (start, self.waiting[0]), (self.waiting[1], start + size)


class Transfer(NamedTuple):
    """What carries the state over, as the ledger has it; all addresses are run-time addresses.

    The first ten are labels of trampolines/x86_64/transfer.S and parking.S, the next three those
    of the patch's runtime (`patch.manifest.Runtime`). `calls_out`: it calls functions that might
    end the program. `reverse` are (name, address) of the functions
    that take back what `carried`: whether there was anything to be carried over.
    """

    start: int
    asleep: int
    handler: int
    restorer: int
    given_up: int
    roll_back: int
    leave: int
    parking: int
    fails: int
    attended: int
    state: int
    rollback: int
    settle: int
    calls_out: bool
    reverse: tuple[tuple[str, int], ...]
    carried: bool


class Record(NamedTuple):
    """What a header says of its patch.

    `regions` are all (address, size) of the patch, the one with the record first; `doors` are, for
    each, the (address, size) of the time until which callers wait and of their doors; `code` are
    the (address, size) ranges of code in its image, `frames` the address of the image's
    .eh_frame_hdr, 0 without one; `fini` are its destructors, `call` the program that runs them (see
    `linux.remote.Program`) and `stack` the memory it does that in; `transfer` is None where the
    patch carries no state over.
    """

    id: str
    name: str
    digest: str
    regions: tuple[tuple[int, int], ...]
    doors: tuple[tuple[int, int], ...]
    code: tuple[tuple[int, int], ...]
    frames: int
    fini: tuple[int, ...]
    call: tuple[int, int, bool]
    stack: int
    transfer: Transfer | None
    functions: tuple[Function, ...]

    @property
    def replaced(self) -> tuple[Function, ...]:
        """Return the functions without those that are update points only."""
        return tuple(function for function in self.functions if function.new)


class Entry(NamedTuple):
    """A record found in a target, with the words beside it; `switch` is OFF or ON.

    `waiting`: callers wait, for a patcher that is at work or that died.
    """

    address: int
    state: int
    switch: int
    waiting: bool
    committed_ns: int
    record: Record


class Remnant(NamedTuple):
    """A region of hotpatch's without a record that can be read: a patcher died writing it.

    Its size is that of the whole region, from its name, its mark, or its shape.
    """

    address: int
    size: int


def encode(record: Record) -> bytes:
    """Return a header, switched off and staged, with its text."""
    text = json.dumps(_plain(record), separators=(",", ":")).encode()
    head = _HEADER.pack(MAGIC, FORMAT, STAGED, OFF, len(text), zlib.crc32(text), 0, 0)
    return head.ljust(_TEXT_OFFSET, b"\0") + text


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "_asdict"):
        return {key: _plain(item) for key, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def decode(address: int, data: bytes) -> Entry | None:
    """Return what the header in `data`, found at `address`, holds; None for no whole one."""
    if len(data) < _TEXT_OFFSET:
        return None
    magic, version, state, switch, size, crc, _, time = _HEADER.unpack_from(data)
    text = data[_TEXT_OFFSET : _TEXT_OFFSET + size]
    if magic != MAGIC or version != FORMAT or len(text) != size or zlib.crc32(text) != crc:
        return None
    return Entry(address, state, switch & ON, switch & WAIT != 0, time, _record(json.loads(text)))


def _record(plain: dict[str, Any]) -> Record:
    def pairs(values: Iterable[list[int]]) -> tuple[tuple[int, int], ...]:
        return tuple((first, second) for first, second in values)

    functions = tuple(
        Function(
            **{
                **function,
                "code": pairs(function["code"]),
                "gate": tuple(function["gate"]),
                "waiting": tuple(function["waiting"]),
                "frames": tuple((at, place, low) for at, place, low in function["frames"]),
                "guarded": pairs(function["guarded"]),
                "arm": _writes(function["arm"]),
                "disarm": _writes(function["disarm"]),
            }
        )
        for function in plain["functions"]
    )
    return Record(
        plain["id"],
        plain["name"],
        plain["digest"],
        pairs(plain["regions"]),
        pairs(plain["doors"]),
        pairs(plain["code"]),
        plain["frames"],
        tuple(plain["fini"]),
        (plain["call"][0], plain["call"][1], bool(plain["call"][2])),
        plain["stack"],
        _transfer(plain["transfer"]),
        functions,
    )


def _transfer(plain: dict[str, Any] | None) -> Transfer | None:
    if plain is None:
        return None
    reverse = tuple((name, address) for name, address in plain["reverse"])
    return Transfer(**{**plain, "reverse": reverse})


def _writes(values: Iterable[dict[str, Any]]) -> tuple[Write, ...]:
    return tuple(Write(value["address"], bytes.fromhex(value["data"])) for value in values)


def find(mappings: Iterable[Mapping], memory: Memory) -> tuple[list[Entry], list[Remnant]]:
    """Return the records in a process, oldest commit first, and regions without one."""
    entries: list[Entry] = []
    rest: list[Remnant] = []
    for mapping in mappings:
        if not is_ours(mapping):
            if _is_unfinished(mapping, memory):
                rest.append(Remnant(mapping.start, mapping.end - mapping.start))
            continue
        size = min(mapping.end - mapping.start, _LARGEST)
        content = memory.read(mapping.start, size)
        _check_format(content)
        entry = decode(mapping.start, content)
        if entry is None:
            rest.append(Remnant(mapping.start, _region_size(mapping)))
        else:
            entries.append(entry)
    entries.sort(key=lambda entry: (entry.switch == OFF, entry.committed_ns))
    patches = [entry for entry in entries if entry.record.regions[0][0] == entry.address]
    claimed = {address for entry in patches for address, _ in entry.record.regions}
    orphans = [Remnant(e.address, _size_of(e)) for e in entries if e.address not in claimed]
    return patches, orphans + [remnant for remnant in rest if remnant.address not in claimed]


def _check_format(content: bytes) -> None:
    """Refuse to touch what another version of hotpatch has recorded: it may well be in force."""
    if content.startswith(MAGIC) and _HEADER.unpack_from(content)[1] != FORMAT:
        raise Refused(
            f"another version of hotpatch has patched the process (ledger format "
            f"{_HEADER.unpack_from(content)[1]}, this one knows {FORMAT})",
            "use that version to list and revert its patches",
        )


def _size_of(entry: Entry) -> int:
    return next(size for address, size in entry.record.regions if address == entry.address)


def mark(size: int) -> bytes:
    """Return what a region of `size` bytes begins with until it has a header."""
    return MAGIC + struct.pack("<Q", size)


def region_size(least: int) -> int:
    """Return the size for a region that is to have `least` bytes: one of a shape of its own.

    In the moment in which a region is mapped it has neither name nor mark. What it has is this: it
    is executable, without a reserve (MAP_NORESERVE) and without a single page of memory, and as
    large as nobody else makes such a thing.
    """
    pages = -(-least // _PAGE)
    return (pages + (_SHAPE - pages) % _SHAPES) * _PAGE


def _is_unfinished(mapping: Mapping, memory: Memory) -> bool:
    """Say whether a mapping is a region whose patcher died before it had a header."""
    size = mapping.end - mapping.start
    if mapping.protection != "r-xp" or mapping.path or mapping.inode or size != region_size(size):
        return False
    area = next((a for a in procfs.areas(memory.pid) if a.start == mapping.start), None)
    if area is not None and "nr" in area.flags and not area.anonymous:
        return True
    return memory.read(mapping.start, 16) == mark(size)


def region_name(patch_id: str, size: int) -> str:
    """Return the name of a region's header: whose it is, and how much belongs to it."""
    return f"{NAME}-{patch_id[:16]}-{size:x}"


def _region_size(mapping: Mapping) -> int:
    size = mapping.path.removesuffix(" (deleted)").rpartition("-")[2]
    return max(int(size, 16), mapping.end - mapping.start)


def is_ours(mapping: Mapping) -> bool:
    """Say whether a mapping is the header of a region of hotpatch's."""
    return mapping.offset == 0 and _NAMED.fullmatch(mapping.path) is not None

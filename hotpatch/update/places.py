# SPDX-License-Identifier: GPL-2.0-or-later
"""Places: where in the target's address space the regions of a patch go.

A region, as it will lie in the target:

    header      r--   the ledger's record, with the switch
    gates       r-x   one for each function of the modules near it; at first the staging code
    call        r-x   what runs constructors, and the commit program; in the first region only
    image       as the patch's segments say; in the first region only
    doors       rw-   what makes callers of the gates wait
    stack       rw-   for both, with a guard in it that stays r-x; in the first region only
    the rest    r-x   never touched: it makes the size one by which the region is known
"""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.errors import Refused
from hotpatch.link.image import image_size
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.process.space import find_space
from hotpatch.redirect.gate import doors_size, gate_size
from hotpatch.update.sites import Site

PAGE = 4096


class Place(NamedTuple):
    """Where the parts of a region go; `size` is that of the whole. Addresses."""

    start: int
    gates: int
    call: int
    image: int
    doors: int
    stack: int
    end: int

    def at(self, address: int) -> Place:
        """Return it moved from 0 to an address."""
        return Place(*(part + address for part in self))


def find_places(process: Process, patch: PatchFile, groups: list[list[Site]]) -> list[Place]:
    """Return where each region goes; raises Refused where one finds no room."""
    taken: list[tuple[int, int]] = []
    places = []
    for group in groups:
        place = _shape(patch, groups, group)
        near = (min(s.module.start for s in group), max(s.module.end for s in group))
        address = find_space(process.mappings, place.end, near, taken)
        if address is None:
            raise Refused(
                f"there is no free address space of {place.end} bytes near {group[0].module.path}",
                "its neighbourhood of 2 GB is full",
            )
        taken.append((address, address + place.end))
        places.append(place.at(address))
    return places


def _shape(patch: PatchFile, groups: list[list[Site]], group: list[Site]) -> Place:
    """Return the parts of a region as if it were at address 0."""
    first = group is groups[0]
    gates = _up(_header_room(patch, groups), PAGE) if first else PAGE
    gates_size = sum(gate_size(site.entry) for site in group)
    doors_room = _up(doors_size(len(group)), PAGE)
    call = _up(gates + max(gates_size, _STAGE_ROOM), 16)
    if not first:
        doors = _up(call, PAGE)
        end = doors + doors_room
        return Place(0, gates, call, call, doors, end, ledger.region_size(end))
    image = _up(call + CALL_ROOM + (_TRANSFER_ROOM if patch.transfers else 0), PAGE)
    doors = image + _up(image_size(patch), PAGE)
    stack = doors + doors_room
    end = ledger.region_size(stack + ledger.STACK_SIZE)
    return Place(0, gates, call, image, doors, stack, end)


_STAGE_ROOM = 512  # trampolines/x86_64/stage.S and the name that it uses
CALL_ROOM = 256  # trampolines/x86_64/call.S
SCRATCH_OFFSET = CALL_ROOM + 1280  # behind trampolines/x86_64/transfer.S and parking.S
_TRANSFER_ROOM = SCRATCH_OFFSET - CALL_ROOM + 256  # with room for snapshot.S


def _header_room(patch: PatchFile, groups: list[list[Site]]) -> int:
    """Return an upper bound of the size of the ledger's record."""
    sites = [site for group in groups for site in group]
    names = sum(2 * len(site.name) + 2 * len(site.module.path) for site in sites)
    instructions = sum(len(site.entry.displaced) + len(site.entry.kept) for site in sites)
    transfers = sum(48 + 2 * len(transfer.name) for transfer in patch.transfers)
    rest = names + 1280 * len(sites) + 64 * instructions + transfers
    return 2048 + 2 * len(patch.name) + rest


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment

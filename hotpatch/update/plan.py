# SPDX-License-Identifier: GPL-2.0-or-later
"""Plan: everything about an update that can be known before the target is touched.

A plan is a value. What `check` prints is what `apply` does: it contains each byte that will be
written and each range that must be quiet. Making one reads the target and changes nothing in it,
so there is nothing here that the death of the patcher could leave behind.
"""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.elf.constants import PT_GNU_EH_FRAME
from hotpatch.elf.symbols import Symbol
from hotpatch.errors import HotpatchError, Refused
from hotpatch.link.bind import Binding
from hotpatch.link.image import Call, LinkedImage, link
from hotpatch.link.layout import Run, span
from hotpatch.linux.memory import Memory
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence.ranges import Range
from hotpatch.redirect.gate import GateCode, build_gates, doors_size
from hotpatch.update.carrying import carrying, steps_of
from hotpatch.update.neighbours import Neighbours
from hotpatch.update.places import CALL_ROOM, SCRATCH_OFFSET, Place, find_places
from hotpatch.update.programs import program
from hotpatch.update.result import Step
from hotpatch.update.sites import Site, find_sites, group_sites
from hotpatch.update.typing import check_types
from hotpatch.update.verdicts import Verdict, verdicts

_PROT_READ, _PROT_WRITE, _PROT_RW = 1, 2, 3


class Region(NamedTuple):
    """Memory to be mapped in the target: header, gates, and whatever `contents` writes.

    Mapped readable and executable; `runs` are the pages that get another protection.
    """

    address: int
    size: int
    header_size: int
    gates: int
    header: bytes
    contents: tuple[ledger.Write, ...]
    runs: tuple[Run, ...]


class Plan(NamedTuple):
    """An update of one process by one patch, ready to be carried out."""

    pid: int
    id: str
    name: str
    path: str
    functions: tuple[ledger.Function, ...]
    regions: tuple[Region, ...]
    active: tuple[Range, ...]
    calls: tuple[Call, ...]
    steps: tuple[Step, ...]
    reverse: tuple[Step, ...]
    bias: int
    scratch: int
    record: ledger.Record
    warnings: tuple[str, ...]
    replace: tuple[str, ...]
    points: tuple[str, ...]
    forced: bool
    require_types: bool
    bindings: tuple[Binding, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def header(self) -> int:
        """Return the address of the ledger's record."""
        return self.regions[0].address

    def renew(self, memory: Memory) -> None:
        """Give the patch its memory as it was staged: code of its own may have run since."""
        region = self.regions[0]
        for write in region.contents:
            memory.write(write.address, write.data)
        image = region.contents[-1]
        end, doors = image.address + len(image.data), self.record.doors[0][0]
        for run in region.runs:  # what begins as zeros is not in the contents
            first, last = max(run.address, end), min(run.address + run.size, doors)
            if run.prot & _PROT_WRITE and first < last:
                memory.write(first, bytes(last - first))


def make_plan(
    process: Process,
    patch: PatchFile,
    force: bool = False,
    replace: tuple[str, ...] = (),
    points: tuple[str, ...] = (),
    require_types: bool = False,
) -> Plan:
    """Plan the update of a process; raises Refused, with what doesn't fit and what to do.

    `force` skips those refusals whose message says so; `replace` and `points` are what the patch
    was opened with; with `require_types` a patch is refused whose types can't be checked.
    """
    _check(process, patch, force)
    neighbours = Neighbours(process)
    sites = find_sites(process, patch, neighbours)
    types = check_types(process, patch, sites, require_types, force)
    groups = group_sites(sites)
    places = find_places(process, patch, groups)
    main = places[0]
    switch = main.start + ledger.SWITCH_OFFSET
    bias = main.image - span(patch.elf).start
    gates = [
        build_gates(
            [s.entry for s in g],
            p.gates,
            switch,
            [None if s.value is None else bias + s.value for s in g],
            p.doors,
        )
        for g, p in zip(groups, places, strict=True)
    ]
    image = link(process, patch, main.image, _originals(groups, gates))
    functions = tuple(
        _function(patch, site, gate, bias)
        for group, row in zip(groups, gates, strict=True)
        for site, gate in zip(group, row, strict=True)
    )
    transfer, transfer_code = carrying(process, patch, places[0], image)
    record = _record(patch, groups, places, image, functions)._replace(transfer=transfer)
    return Plan(
        process.pid,
        patch.id,
        patch.name,
        patch.path,
        functions,
        tuple(
            _region(patch, record, place, row, image if place is main else None, transfer_code)
            for place, row in zip(places, gates, strict=True)
        ),
        _active(groups, functions),
        image.calls,
        steps_of(patch, bias, reverse=False),
        steps_of(patch, bias, reverse=True),
        bias,
        main.call + SCRATCH_OFFSET,
        record,
        (*image.warnings, *neighbours.warnings, *types.warnings),
        replace,
        points,
        force,
        require_types,
        image.bindings,
        verdicts(patch, functions, image, types),
    )


def _check(process: Process, patch: PatchFile, force: bool) -> None:
    """Refuse what can be refused without looking at any function."""
    if patch.trust and not force:
        raise Refused(patch.trust, "whoever can write it can run code in the target; mend that, "
                      "or use --force if you know the file", forceable=True)  # fmt: skip
    for found in process.patches:
        if found.record.id == patch.id and found.switch == ledger.ON:
            raise Refused(
                f"patch {patch.name} ({patch.id[:12]}) is applied already",
                f"see `hotpatch list {process.pid}`",
            )
    for name, build_id in patch.build_ids:
        _check_build_id(process, name, build_id.lower())


def _check_build_id(process: Process, name: str | None, wanted: str) -> None:
    for module in process.modules:
        if module.program if name is None else name in (module.name, module.elf.soname):
            found = (module.elf.build_id or b"").hex()
            if found == wanted:
                return
            raise Refused(
                f"{module.path} has build-id {found or 'none'}, the patch is for {wanted}",
                "make the patch from the sources of the build that runs",
            )
    raise Refused(
        f"the patch is for {name}, which process {process.pid} has not loaded",
        f"see `grep so /proc/{process.pid}/maps` for what it has",
    )


def _originals(groups: list[list[Site]], gates: list[list[GateCode]]) -> dict[str, int]:
    """Return the address of each function's old path, by name and by file and name."""
    originals = {}
    for group, row in zip(groups, gates, strict=True):
        for site, gate in zip(group, row, strict=True):
            originals[site.name] = originals[site.qualified] = gate.original
    return originals


def _function(patch: PatchFile, site: Site, gate: GateCode, bias: int) -> ledger.Function:
    writes = (site.entry.arm_writes(gate.address), site.entry.disarm_writes())
    arm, disarm = (tuple(ledger.Write(*write) for write in part) for part in writes)
    return ledger.Function(
        site.name,
        site.module.path,
        site.entry.address,
        0 if site.value is None else bias + site.value,
        tuple((bias + s.value, max(s.size, 1)) for s in _new_code(patch, site.value)),
        (gate.address, len(gate.code)),
        tuple((f.offset, f.address, f.lowered) for f in gate.frames),
        site.under[-1].gate[0] if site.under else 0,
        gate.door,
        gate.waiting,
        tuple((r.start, r.stop) for r in site.entry.guarded),
        arm,
        disarm,
        site.point,
    )


def _new_code(patch: PatchFile, value: int | None) -> list[Symbol]:
    """Return the symbols of the replacement at `value`: the function and its fragments."""
    symbol = None if value is None else patch.elf.symbols.at(value)
    return [symbol, *patch.elf.symbols.fragments(symbol)] if symbol else []


def _record(
    patch: PatchFile,
    groups: list[list[Site]],
    places: list[Place],
    image: LinkedImage,
    functions: tuple[ledger.Function, ...],
) -> ledger.Record:
    start, asleep, uses_fpu = program("call.S", places[0].call, uses_fpu=True)[0]
    return ledger.Record(
        patch.id,
        patch.name,
        patch.digest,
        tuple((place.start, place.end - place.start) for place in places),
        tuple((p.doors, doors_size(len(g))) for p, g in zip(places, groups, strict=True)),
        tuple((run.address, run.size) for run in image.runs if run.prot & 4),
        _frames(patch, image),
        image.fini,
        (start, asleep, uses_fpu),
        places[0].stack,
        None,
        functions,
    )


def _frames(patch: PatchFile, image: LinkedImage) -> int:
    """Return the address of .eh_frame_hdr in the image, 0 without one."""
    segments = (s for s in patch.elf.segments if s.type == PT_GNU_EH_FRAME and s.memsz)
    return next((image.bias + segment.vaddr for segment in segments), 0)


def _region(
    patch: PatchFile,
    record: ledger.Record,
    place: Place,
    gates: list[GateCode],
    image: LinkedImage | None,
    transfer_code: bytes,
) -> Region:
    contents = [ledger.Write(place.gates, b"".join(gate.code for gate in gates))]
    runs: list[Run] = []
    header = ledger.encode(record if image else record._replace(functions=()))
    if image:
        contents.append(ledger.Write(place.call, program("call.S", place.call, uses_fpu=True)[1]))
        if transfer_code:
            contents.append(ledger.Write(place.call + CALL_ROOM, transfer_code))
        contents.append(ledger.Write(image.base, image.content))
        runs = [run for run in image.runs if run.prot != _PROT_READ | 4]
    below, guard = ledger.STACK_GUARD if image else (0, 0)
    runs.append(Run(place.doors, place.stack + below - place.doors, _PROT_RW))
    if image:
        lowest = place.stack + below + guard
        runs.append(Run(lowest, place.stack + ledger.STACK_SIZE - lowest, _PROT_RW))
    if len(header) > place.gates - place.start:
        raise HotpatchError(f"the ledger's record of {patch.name} has {len(header)} bytes")
    return Region(
        place.start,
        place.end - place.start,
        place.gates - place.start,
        place.gates,
        header,
        tuple(contents),
        tuple(_joined(runs)),
    )


def _joined(runs: list[Run]) -> list[Run]:
    """Return the runs with neighbours of one protection as one."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and last.address + last.size == run.address and last.prot == run.prot:
            joined[-1] = Run(last.address, last.size + run.size, run.prot)
        else:
            joined.append(run)
    return joined


def _active(groups: list[list[Site]], functions: tuple[ledger.Function, ...]) -> tuple[Range, ...]:
    """Return all that must be quiet at the commit: old code, and the gates on the way to it."""
    ranges = {r for group in groups for site in group for r in site.active}
    looping = {s.name for group in groups for s in group if s.entry.reentries}
    for function in functions:
        if function.new:
            (begin, wait), (decided, end) = function.decided
            ranges.add(Range(begin - (function.name in looping), wait, function.name))
            ranges.add(Range(decided, end, function.name))
    return tuple(sorted(ranges))

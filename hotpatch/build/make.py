# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a patch of two versions of some objects: the story, from difference to shared object.

compile     what a diff touches, in the old and the new version (hotpatch.build.units)
difference  function by function, at object level
match       the old code is found in the binary, and with it all that it refers to
closure     what has to come along
assemble    one object file, which ld makes a shared object of
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from hotpatch.build import findings
from hotpatch.build.assemble import Assembly
from hotpatch.build.atoms import CODE, CONSTANT, DATA, Atom
from hotpatch.build.binary import Binary
from hotpatch.build.closure import CHANGED, Closure, Key, Unit, is_part, users_of
from hotpatch.build.difference import difference
from hotpatch.build.linker import link_shared
from hotpatch.build.match import Match
from hotpatch.build.objects import Object
from hotpatch.build.options import Options
from hotpatch.build.records import Records
from hotpatch.build.relocatable import Sym, write
from hotpatch.build.typing import changed_types, check_carried
from hotpatch.build.view import DebugView
from hotpatch.build.written import Part
from hotpatch.elf import constants as c
from hotpatch.errors import Refused
from hotpatch.patch import manifest


class Source(NamedTuple):
    """The object files of one source file; `run` is the old one as the binary's was compiled."""

    name: str
    old: str | None
    new: str | None
    run: str | None


class Included(NamedTuple):
    """A function or variable in a patch, and why."""

    name: str
    source: str
    kind: str
    reason: str
    replaces: bool


class Made(NamedTuple):
    """What a build came to: nothing, where `included` is empty."""

    path: str
    included: tuple[Included, ...]
    changed: tuple[str, ...]
    """Functions whose code is another in the new version."""
    moved: tuple[str, ...]
    """Those that differ in line numbers only, and are left as they are."""
    warnings: tuple[str, ...]


Report = Callable[[str, int, int], None]
"""Is told what is done, how much of it, and of how much."""


def make_patch(
    sources: Iterable[Source],
    binary: Binary,
    out: str,
    options: Options,
    report: Report,
    parts: Sequence[Part] = (),
) -> Made:
    """Make a patch of what differs between the objects of `sources`, for `binary`.

    The shared object is written to `out`, unless nothing changed, and has `parts` too. Raises
    Refused for what can't be patched, with the way out, and ElfError and OSError for files that
    can't be read.
    """
    sources, absent = list(sources), list[str]()
    ways: dict[str, list[Unit]] = {}
    for done, source in enumerate(sources):
        report("comparing", done, len(sources))
        found = _unit(source, binary, parts)
        if found is not None:
            ways.setdefault(source.name, []).append(found)
    report("comparing", len(sources), len(sources))
    units = []
    for name, candidates in ways.items():
        best = max(candidates, key=lambda unit: unit.match.score)
        if best.match.score < 0:
            absent.append(name)
        else:
            units.append(best)
    changed = tuple(
        atom.name or ""
        for unit in units
        for atom in unit.difference.changed
        if atom.kind == CODE and not is_part(atom)
    )
    moved = tuple(atom.name or "" for unit in units for atom in unit.difference.moved)
    carried = frozenset(change.target for part in parts for change in part.manifest.types)
    warnings = findings.check(units, options._replace(types=options.types | carried))
    warnings += tuple(f"{name} changed and is not part of {binary.path}" for name in absent)
    findings.check_constants(units, binary, options.keep)
    closure = Closure(units, binary, options.keep)
    for key, reason in _roots(units, options):
        closure.add(key, reason)
    if not closure.reasons:
        return Made(out, (), changed, moved, warnings)
    findings.check_closure(closure)
    included = (*_included(closure), *_written(parts))
    _link(closure, binary, out, options, included, [part.path for part in parts])
    return Made(out, included, changed, moved, warnings)


def _unit(source: Source, binary: Binary, parts: Sequence[Part]) -> Unit | None:
    """Return what differs in a source file, None where nothing does."""
    if source.new is None:
        return None
    old = Object(source.old) if source.old else Object.empty()
    run = old if source.run in (None, source.old) else Object(source.run)
    new = Object(source.new)
    views = DebugView(old), DebugView(new)
    found = difference(old, new, (views[0].line, views[1].line))
    if not (found.changed or found.added or found.moved):
        return None
    types = changed_types(*views) if found.changed or found.added else {}
    check_carried(source.name, views, types, parts)
    return Unit(source.name, found, Match(run, binary), types)


def _roots(units: list[Unit], options: Options) -> Iterable[tuple[Key, str]]:
    """Yield what has to be in the patch by itself: changed code, and users of changed constants."""
    for index, unit in enumerate(units):
        for atom in sorted(unit.difference.changed, key=is_part):
            if atom.kind == CODE and _source_name(atom) not in options.skip:
                yield (index, atom.number), CHANGED
            elif atom.kind == CONSTANT and atom.name not in options.keep:
                for user in users_of(unit.new, atom.number):
                    if user.kind == CODE and _source_name(user) not in options.skip:
                        yield (index, user.number), f"it uses {atom.name}, which changed"


def _source_name(atom: Atom) -> str:
    return (atom.name or "").partition(".")[0]


def _included(closure: Closure) -> tuple[Included, ...]:
    found = []
    for key, reason in sorted(closure.reasons.items()):
        atom = closure.atom(key)
        if atom.symbols and not (atom.name or "").startswith("DW.ref."):
            replaces = closure.replaces(key) is not None
            unit = closure.units[key[0]].name
            found.append(Included(closure.name(key), unit, atom.kind, reason, replaces))
    return tuple(found)


def _written(parts: Sequence[Part]) -> Iterator[Included]:
    """Yield what comes with the patch: its transfers, and functions that are replaced by hand."""
    for part in parts:
        for transfer in part.manifest.transfers:
            kind = manifest.KINDS[transfer.kind]
            yield Included(transfer.name, part.source, kind, "written", replaces=False)
        for function in part.manifest.replacements:
            yield Included(function.name, part.source, CODE, "written", replaces=True)


def _link(
    closure: Closure,
    binary: Binary,
    out: str,
    options: Options,
    included: tuple[Included, ...],
    more: Sequence[str],
) -> None:
    """Write the object file and have it linked."""
    assembly = Assembly(closure)
    records = Records()
    module = None if binary.program else binary.elf.soname or os.path.basename(binary.path)
    records.add(manifest.BUILD_ID, module, binary.build_id)
    if options.name:
        records.add(manifest.NAME, options.name)
    if options.description:
        records.add(manifest.DESCRIPTION, options.description)
    for key, text in options.facts:
        records.add(manifest.FACT, key, text)
    for function in assembly.functions:
        if function.old is not None:
            _replace(records, closure, function.key, function.symbol, function.old)
    for one in included:
        if one.kind in (CODE, CONSTANT, DATA, *manifest.KINDS.values()):
            records.add(manifest.REASON, one.name, f"{one.source}: {one.reason}")
    sections = [*assembly.sections, records.strings, records.section]
    content = write(sections, assembly.symbols)
    link_shared(content, out, more, exceptions=assembly.exceptions)


def _replace(records: Records, closure: Closure, key: Key, symbol: Sym, old: Atom) -> None:
    """Record that a function takes the place of the target's, with all pieces of that."""
    unit = closure.units[key[0]]
    address = unit.old_address(old)
    if address is None:
        raise Refused(
            f"the place of `{old.name}` in the binary is not known", "give the binary's debug file"
        )
    findings.check_folded(unit, old, address)
    places = [(address, _size(old))]
    for other in unit.difference.old.atoms:
        name = other.name or ""
        belongs = other.kind == CODE and name.startswith(f"{old.name}.")
        gone = other.number not in unit.difference.pairs.new_of
        if belongs and (is_part(other) or gone):
            where = unit.old_address(other)
            if where is not None:
                places.append((where, _size(other)))
    name = f"{old.name}={symbol.name}"
    extra = " ".join(f"{start:#x}+{size}" for start, size in places)
    records.add(manifest.REPLACE_AT, name, extra, symbol)


def _size(atom: Atom) -> int:
    sizes = [symbol.size for symbol in atom.symbols if symbol.type != c.STT_NOTYPE]
    return max(sizes, default=0) or atom.size

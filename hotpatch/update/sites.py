# SPDX-License-Identifier: GPL-2.0-or-later
"""Sites: the functions that a patch replaces, found and decoded in the live target."""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.errors import Refused
from hotpatch.link.bind import ORIGINAL
from hotpatch.link.scope import find_replaced
from hotpatch.link.target import Definition
from hotpatch.patch.file import PatchFile
from hotpatch.patch.manifest import Replacement, UpdatePoint
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.process.modules import Module
from hotpatch.process.space import REACH
from hotpatch.quiescence.ranges import Range
from hotpatch.redirect import entry as redirect
from hotpatch.update import chain
from hotpatch.update.neighbours import Neighbours

_CHAIN_ROOM = 32  # of an entry's first bytes, where a function is shorter


class Site(NamedTuple):
    """A function with a gate: where it is, how its entry is redirected, what it has been.

    `value` is the virtual address of its replacement in the patch, None for an update point
    (`point`) that is not replaced.
    """

    name: str
    qualified: str
    module: Module
    value: int | None
    entry: redirect.Entry
    under: tuple[ledger.Function, ...]
    active: tuple[Range, ...]
    point: bool


def find_sites(process: Process, patch: PatchFile, neighbours: Neighbours) -> list[Site]:
    """Find and decode the functions, in the order in which they lie in the target."""
    found: list[tuple[Definition, Replacement | UpdatePoint]] = [
        (find_replaced(process, patch, r), r) for r in patch.replacements
    ]
    points = {}
    for point in patch.points:
        definition = find_replaced(process, patch, point)
        points[definition.address] = definition
        if all(definition.address != other.address for other, _ in found):
            found.append((definition, point))
    found.sort(key=lambda pair: pair[0].address)
    claimed: list[range] = []
    sites = []
    for definition, wanted in found:
        replacement = wanted if isinstance(wanted, Replacement) else None
        module = process.module_at(definition.address)
        assert module is not None
        parts = replacement.places[1:] if replacement else ()
        function = neighbours.function(module, definition.symbol, parts)
        under = chain.below(process, function.address)
        if under:
            entry = redirect.chained_entry(
                function.name,
                function.address,
                process.read(function.address, max(len(function.code), _CHAIN_ROOM)),
                under[-1].gate[0],
            )
        else:
            neighbours.check_unchanged(module, function)
            entry = redirect.plan_entry(function, claimed)
            claimed += entry.claims
        if replacement:
            _check_original(patch, replacement.symbol, entry)
        if definition.address in points:
            _check_point(wanted.name, entry)
        sites.append(
            Site(
                wanted.name,
                f"{wanted.file}:{wanted.name}",
                module,
                replacement.value if replacement else None,
                entry,
                under,
                _code_of(process, function, entry) if replacement else (),
                definition.address in points,
            )
        )
    return sites


def _check_original(patch: PatchFile, symbol: str, entry: redirect.Entry) -> None:
    """Refuse to call the original of a function that passes its own gate again."""
    used = f"{ORIGINAL}{symbol}"
    if entry.reentries and any(s.name == used for s in patch.elf.dynamic_symbols.undefined()):
        raise Refused(
            f"HOTPATCH_ORIGINAL({symbol}) can't be used: the original loops back to its own entry "
            f"({entry.reentries[0]:#x}), and would go on in the new code",
            "write the replacement without a call of the original",
        )


def _check_point(name: str, entry: redirect.Entry) -> None:
    """Refuse an update point at which a caller can't be told from a loop."""
    if entry.reentries:
        raise Refused(
            f"{name} can't be an update point: it loops back to its own entry "
            f"({entry.reentries[0]:#x})",
            "name a function that its loop calls",
        )


def _code_of(
    process: Process, function: redirect.Function, entry: redirect.Entry
) -> tuple[Range, ...]:
    """Return the code that a call of the function may be in now: it must be quiet.

    So must be that of patches below it, and of those that are off and mapped yet: a call may have
    begun before a probation turned them off, or come by a pointer that somebody has kept. At the
    function's first byte a call has not begun yet, unless the function loops back there.
    """
    begin = function.address - bool(entry.reentries)
    stretches = [(begin, function.end + chain.ends_in_call(function.code))]
    stretches += [(part.address, part.end) for part in function.fragments]
    for other in chain.mapped(process, function.address):
        stretches += [*other.decided, *((start, start + size) for start, size in other.code)]
    return tuple(Range(start, end, function.name) for start, end in stretches)


def group_sites(sites: list[Site]) -> list[list[Site]]:
    """Put the functions together that one region reaches; the largest group comes first."""
    groups: list[list[Site]] = []
    for site in sites:
        if groups and site.module.end - groups[-1][0].module.start < REACH:
            groups[-1].append(site)
        else:
            groups.append([site])
    return sorted(groups, key=len, reverse=True)

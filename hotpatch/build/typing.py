# SPDX-License-Identifier: GPL-2.0-or-later
"""Types that a diff changes: objects of them live in the target as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hotpatch.build.objects import Object
from hotpatch.build.view import DebugView
from hotpatch.build.written import Part
from hotpatch.dwarf.compare import Comparison, Sides
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.names import Names
from hotpatch.elf.content import ElfError
from hotpatch.errors import Refused
from hotpatch.patch.manifest import TypeChange


def changed_types(old: DebugView, new: DebugView) -> dict[str, list[str]]:
    """Return the types that both versions of a source file have, and how they differ.

    Nothing is found where there is no debug information that can be read.
    """
    found: dict[str, list[str]] = {}
    sides = Sides("the old source", "the new")
    try:
        before, after = old.names, new.names
        comparison = Comparison(before, after, {}, sides)
        for tag in after.tags():
            refs = before.definitions(tag)
            if refs:
                new_ref = after.definitions(tag)[0]
                differ = [comparison.types(ref, new_ref, f"`{tag}`") for ref in refs]
                if all(differ):
                    found[tag] = min(differ, key=lambda texts: (len(texts), texts))
    except (DwarfError, ElfError):
        return {}
    return found


def check_carried(
    name: str,
    views: tuple[DebugView, DebugView],
    types: Mapping[str, list[str]],
    parts: Sequence[Part],
) -> None:
    """Compare what transfers take for a type with what it is in a source file, before and after.

    `types` are those that change in it. Raises Refused.
    """
    for part in parts:
        changes = [change for change in part.manifest.types if change.target in types]
        try:
            own = DebugView(Object(part.path)).names if changes else None
            for change in changes:
                for view, tag, which in (
                    (views[0], change.old, "the old source"),
                    (views[1], change.new, "the new source"),
                ):
                    assert own is not None
                    _check(view.names, own, change, tag, part, f"{name} in {which}")
        except (DwarfError, ElfError) as error:
            raise Refused(
                f"the types of {part.source} can't be compared: {error}", "compile it with -g"
            ) from error


def _check(names: Names, own: Names, change: TypeChange, tag: str, part: Part, where: str) -> None:
    """Refuse a type of a part that is not what the source has."""
    others = {c.target: frozenset(c) for c in part.manifest.types}
    renamed = {**others, change.target: frozenset((tag,))}
    sides = Sides(where, part.source)
    comparison = Comparison(names, own, renamed, sides, inside=change.target)
    theirs, ours = names.definitions(change.target), own.definitions(tag)
    if not theirs or not ours:
        found = ["it has no debug information on it"]
    else:
        found = comparison.types(theirs[0], ours[0], f"`{change.target}`")
    if found:
        raise Refused(
            f"{part.source}: `{tag}` is not `{change.target}` of {where}: {found[0]}",
            "make it anew with `hotpatch transform`",
            differences=found,
        )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Types that a diff changes: objects of them live in the target as they were."""

from __future__ import annotations

from hotpatch.build.view import DebugView
from hotpatch.dwarf.compare import Comparison, Sides
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.elf.content import ElfError


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

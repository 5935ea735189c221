# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the types of a patch are those of the target: the audit's place in a plan."""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.errors import Refused
from hotpatch.patch.file import PatchFile
from hotpatch.process.image import Process
from hotpatch.update.sites import Site


class TypeCheck(NamedTuple):
    """What could be checked: how many things, and what not."""

    checked: int
    unchecked: tuple[str, ...]
    warnings: tuple[str, ...]


def check_types(
    process: Process, patch: PatchFile, sites: list[Site], required: bool, force: bool
) -> TypeCheck:
    """Compare the types of patch and target; raises Refused where they don't fit.

    Built patches were made of the target's own source; what they change was checked then.
    """
    from hotpatch.audit.types import Replaced, audit_types  # noqa: PLC0415

    if patch.places:
        return TypeCheck(0, (), ())
    by_value = {replacement.value: replacement for replacement in patch.replacements}
    replaced = [
        Replaced(by_value[site.value], site.module) for site in sites if site.value in by_value
    ]
    program = next(module for module in process.modules if module.program)
    found = audit_types(patch, replaced, program)
    if found.problems:
        raise Refused(
            f"patch and target differ in their types: {found.problems[0]}",
            "compile the patch with the target's own headers; what is to change is declared with "
            "HOTPATCH_TYPE or HOTPATCH_ADAPT",
            problems=list(found.problems),
        )
    if found.copies and not force:
        raise Refused(
            found.copies[0],
            "replace those functions, too; declare HOTPATCH_UNAFFECTED for those where it does not "
            "matter; or use --force",
            problems=list(found.copies),
            forceable=True,
        )
    if found.unchecked and required:
        raise Refused(
            f"the types can't be checked: {'; '.join(found.unchecked)}",
            "give the debug information of both, or apply it without --require-types",
        )
    risky = bool(patch.transfers) and not found.checked
    warnings = found.copies
    warnings += tuple(f"types were not checked: {why}" for why in found.unchecked) if risky else ()
    return TypeCheck(found.checked, found.unchecked, warnings)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What the checks of a plan came to, for the user of `hotpatch check`.

A check that fails refuses the patch; so there is nothing here but what went well, what was forced,
and what could not be checked.
"""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.link.image import LinkedImage
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.update.typing import TypeCheck

OK, FORCED, UNKNOWN = "ok", "forced", "unknown"


class Verdict(NamedTuple):
    """The outcome of one check: `verdict` is "ok", "forced" or "unknown"."""

    check: str
    verdict: str
    detail: str


def verdicts(
    patch: PatchFile,
    functions: tuple[ledger.Function, ...],
    image: LinkedImage,
    types: TypeCheck,
) -> tuple[Verdict, ...]:
    """Return the verdicts on a patch that can be applied."""
    found = sum(binding.address != 0 for binding in image.bindings)
    return (
        Verdict("patch file", FORCED, patch.trust)
        if patch.trust
        else Verdict("patch file", OK, "nobody else can write it"),
        *_builds(patch),
        *(_function(function) for function in functions),
        Verdict("symbols", OK, f"{found} that the patch needs are in the target"),
        *_types(types),
    )


def _types(types: TypeCheck) -> list[Verdict]:
    found = [Verdict("types", UNKNOWN, why) for why in types.unchecked]
    if types.checked:
        what = f"{types.checked} types, functions and variables are the same in both"
        found.insert(0, Verdict("types", OK, what))
    return found


def _builds(patch: PatchFile) -> list[Verdict]:
    if not patch.build_ids:
        return [Verdict("build-id", UNKNOWN, "the patch does not say which build it is for")]
    return [
        Verdict("build-id", OK, f"{name or 'the program'} is build {build_id}")
        for name, build_id in patch.build_ids
    ]


def _function(function: ledger.Function) -> Verdict:
    check = f"function {function.name}" if function.new else f"update point {function.name}"
    if function.under:
        return Verdict(check, OK, "replaced already; this patch goes on top")
    size = sum(len(write.data) for write in function.arm)
    return Verdict(check, OK, f"its code is that of the file; {size} bytes of it are written")

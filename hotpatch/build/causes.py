# SPDX-License-Identifier: GPL-2.0-or-later
"""Why compiled code is not the binary's: the likely cause, from what both say of their making."""

from __future__ import annotations

from hotpatch.build.atoms import CODE
from hotpatch.build.binary import Binary
from hotpatch.build.closure import Unit
from hotpatch.elf.content import ElfError
from hotpatch.elf.file import ElfFile

_MOST = 0.5


def likely_cause(unit: Unit) -> str:
    """Return what to do about an object that is not the binary's, the likely cause first."""
    here, there = compilers(unit.match.object.elf), compilers_of(unit.match.binary)
    if there and here and not here & there:
        return (
            f"another compiler: the binary was made by {', '.join(sorted(there))}, this by "
            f"{', '.join(sorted(here))}; use the same"
        )
    functions = [a for a in unit.match.object.atoms if a.kind == CODE and a.symbols]
    differ = unit.match.mismatches
    if differ and len(differ) <= _MOST * len(functions):
        names = ", ".join(mismatch.function for mismatch in differ[:8])
        return (
            f"another version of the source, or another configuration: only {names} differ; give "
            "the source that the binary was built of, with all of the distribution's patches"
        )
    return (
        "other compiler flags (-O, -march, -fPIE, hardening), link-time optimisation, or not the "
        "source of this binary; give its own build command"
    )


def compilers_of(binary: Binary) -> set[str]:
    """Return the compilers that a binary names."""
    found = compilers(binary.elf)
    return found or (compilers(binary.debug) if binary.debug else set())


def compilers(elf: ElfFile) -> set[str]:
    """Return the compilers that .comment names; start-up files of another one are among them."""
    try:
        section = elf.section(".comment")
        raw = elf.section_data(section) if section else b""
    except ElfError:
        return set()
    return {text for text in raw.decode(errors="replace").split("\0") if text}

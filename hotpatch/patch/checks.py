# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a shared object is of the kind that can be linked into a running process.

Each check looks at the file alone and raises `Refused`, with the compiler's option or the
change of source that makes a patch of it. What depends on the target is the linker's to check.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hotpatch.elf import constants as c
from hotpatch.errors import Refused

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.patch.manifest import Replacement

DF_1_PIE = 0x0800_0000
"""Flag of DT_FLAGS_1: the file is a program (gABI leaves it to binutils' elf/common.h)."""

# Everything in the image is reached by 32-bit distances, from code that must lie near the target's.
LARGEST_IMAGE = 1 << 28
PAGE = 4096

_COMPILE = "compile it with `cc $(hotpatch cflags) -shared -fPIC`"


def check_kind(elf: ElfFile) -> None:
    """Refuse anything but a shared object: objects, archives, programs, core dumps."""
    flags = elf.dynamic.get(c.DT_FLAGS_1, [0])[0]
    if elf.type == c.ET_DYN and elf.dynamic and not flags & DF_1_PIE:
        return
    kinds = {c.ET_REL: "an object file", c.ET_EXEC: "a program", c.ET_CORE: "a core dump"}
    kind = "a program" if flags & DF_1_PIE else kinds.get(elf.type, "no shared object")
    raise Refused(f"{elf.name} is {kind}, not a shared object", _COMPILE)


def check_segments(elf: ElfFile) -> None:
    """Refuse segments that can't be placed, and any that would be writable and executable."""
    loads = [segment for segment in elf.segments if segment.type == c.PT_LOAD and segment.memsz]
    if not any(segment.flags & c.PF_X for segment in loads):
        raise Refused(f"{elf.name} has no code", _COMPILE)
    for segment in loads:
        if segment.flags & c.PF_X and segment.flags & c.PF_W:
            raise Refused(
                f"{elf.name} has a segment that is writable and executable",
                "link it without -N and --omagic, and without writable sections of code",
            )
        elf.read(segment.vaddr, segment.filesz)  # all of it is in the file
    for before, behind in pairwise(loads):
        if before.vaddr + before.memsz > behind.vaddr:
            raise Refused(f"{elf.name} is damaged: its segments overlap", "build it anew")
    if loads[-1].vaddr + loads[-1].memsz - loads[0].vaddr > LARGEST_IMAGE:
        raise Refused(
            f"{elf.name} takes more than {LARGEST_IMAGE >> 20} MiB of memory",
            "allocate large data from the heap",
        )


def check_alignment(elf: ElfFile) -> None:
    """Refuse variables aligned by more than a page, as the image is placed at any page."""
    for section in elf.sections:
        if section.flags & c.SHF_ALLOC and section.align > PAGE:
            raise Refused(
                f"{elf.name}: {section.name} asks for an alignment of {section.align} bytes",
                f"align nothing in a patch by more than {PAGE} bytes",
            )


def check_text_relocations(elf: ElfFile) -> None:
    """Refuse code that would have to be written to at its relocation."""
    flags = elf.dynamic.get(c.DT_FLAGS, [0])[0]
    if c.DT_TEXTREL in elf.dynamic or flags & c.DF_TEXTREL:
        raise Refused(
            f"{elf.name} has relocations in its code: it is not position-independent",
            "compile every object of it with -fPIC",
        )


def check_thread_local(elf: ElfFile) -> None:
    """Refuse thread-local variables of the patch's own: the target's threads have no room."""
    if elf.tls is not None and elf.tls.memsz:
        raise Refused(
            f"{elf.name} defines thread-local variables, and the target's threads have no room "
            "for them",
            "declare the target's own as `extern __thread`; for new ones keep a table by thread id",
        )


def check_replacement(elf: ElfFile, replacement: Replacement) -> None:
    """Refuse a replacement that is no code of the patch, or none that could run."""
    name, value = replacement.symbol, replacement.value
    if not any(
        segment.type == c.PT_LOAD
        and segment.flags & c.PF_X
        and 0 <= value - segment.vaddr < segment.filesz
        for segment in elf.segments
    ):
        raise Refused(
            f"the replacement `{name}` is not code of the patch", "replace functions by functions"
        )
    for symbol in elf.symbols.by_name(name):
        if symbol.value != value or symbol.section == c.SHN_UNDEF:
            continue
        if symbol.type == c.STT_GNU_IFUNC:
            raise Refused(
                f"the replacement `{name}` is an indirect function",
                "replace the function by one of its implementations",
            )
        if symbol.type == c.STT_FUNC and not symbol.size:
            raise Refused(
                f"the replacement `{name}` has no instructions",
                "the compiler found that it can't be run (__builtin_unreachable, or no return)",
            )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which initialisers and finalisers of a patch have to be run in the target.

Every shared object has some: the tool chain's start-up files bring them. They do nothing unless
a library for transactional memory or a profiler is there, and running code in a target is not
for nothing, so they are left out. gcc's last finaliser runs what was registered with
__cxa_atexit; a patch that registers nothing needs no such run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hotpatch.arch import toolchain
from hotpatch.elf import constants as c

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile

_REGISTERS = frozenset(
    ("__cxa_atexit", "__cxa_thread_atexit", "__cxa_thread_atexit_impl", "__cxa_at_quick_exit")
)


def constructors(elf: ElfFile) -> list[int]:
    """Return the virtual addresses of the initialisers to be run, in their order."""
    return [a for a in elf.init_functions if not toolchain.does_nothing(_reader(elf), a)]


def destructors(elf: ElfFile) -> list[int]:
    """Return the virtual addresses of the finalisers to be run when the patch is taken out."""
    code = _reader(elf)
    needed = [a for a in elf.fini_functions if not toolchain.does_nothing(code, a)]
    if any(symbol.name in _REGISTERS for symbol in elf.dynamic_symbols.undefined()):
        return needed
    return [address for address in needed if not toolchain.only_finalizes(code, address)]


def _reader(elf: ElfFile) -> toolchain.Reader:
    def code(address: int) -> bytes:
        for s in elf.segments:
            start = address - s.vaddr
            if s.type == c.PT_LOAD and s.flags & c.PF_X and 0 <= start < s.filesz:
                return elf.read(address, min(toolchain.LONGEST, s.filesz - start))
        return b""

    return code

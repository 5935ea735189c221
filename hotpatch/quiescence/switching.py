# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a process may have coroutines with stacks of their own.

Nearly all have none, and then nothing is to be looked for. A process may have some if

- a module other than the C library refers to, or has, a function that is known to change stacks:
  <ucontext.h>, Boost.Context, libco and others (`_NAMES`); or sigaltstack(2) together with
  sigsetjmp and siglongjmp, which is how portable libraries get at a new stack;
- code of the program, of a module that is patched, or of a patch loads rsp in a way in which
  compilers don't (`arch.switching`): a switch written by hand; or
- a thread was seen to run on another stack than its own. That is for the caller to notice.

What is missed is a switch written by hand, under a name of its own, in a library that is not
patched, while all threads are on their own stacks at each stop.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence

from hotpatch.arch.frames import RSP
from hotpatch.arch.switching import (
    loads_stack_pointer,
    restores_stack_pointer,
    stack_pointer_loads,
)
from hotpatch.elf.constants import PF_X, PT_LOAD
from hotpatch.elf.file import ElfError
from hotpatch.elf.symbols import SymbolTable
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.process.modules import Module

_NAMES = (
    *("makecontext", "swapcontext", "setcontext"),
    *("jump_fcontext", "make_fcontext", "ontop_fcontext"),  # Boost.Context, PHP
    *("co_switch", "coro_transfer", "coroutine_transfer", "acosw", "_mco_switch", "tina_swap"),
    *("qemu_coroutine_switch", "st_thread_create", "pth_spawn", "taskcreate", "lthread_create"),
    *("ASYNC_start_job", "ASYNC_pause_job"),
)
# What these have of it is for those jobs of OpenSSL, which a program has to ask for.
_OPENSSL = re.compile(r"lib(crypto|ssl)[-.].*so.*")
_TRICK = ("sigaltstack", "siglongjmp")
_SETJMP = ("_setjmp", "setjmp", "__sigsetjmp", "sigsetjmp")
C_LIBRARY = re.compile(r"(libc|libpthread|ld|ld-linux-x86-64|libc\.musl|ld-musl)[-.].*so.*")
# What the C library, in a static program, has of such code for ends of its own.
_OF_THE_C_LIBRARY = re.compile(
    r"_*(sig|lib)*c?_?(longjmp|longjmp_chk|dl_|tlsdesc|clone|vfork|start|unmapself).*"
)
_LARGEST = 1 << 16
_LONGEST = 15  # bytes of an instruction
_AROUND = 4096  # of an instruction: the function that it is in, as a rule


def can_switch(
    process: Process, patched: Iterable[int], patches: Sequence[ledger.Entry] = ()
) -> bool:
    """Say whether a process may have coroutines.

    `patched` are addresses in what is being patched, `patches` those that it has already.
    Takes about 6 ms for each MB of code of the program and the modules that are patched.
    """
    before = [f.old for patch in patches for f in patch.record.functions]
    changed = (process.module_at(address) for address in (*patched, *before))
    owners = {module.start: module for module in changed if module is not None}
    others = [m for m in process.modules if not C_LIBRARY.fullmatch(m.name)]
    owners.update((module.start, module) for module in others if module.program)
    if any(_names_a_switch(m) for m in others if not _OPENSSL.fullmatch(m.name)):
        return True
    if any(_brings_a_switch(process, patch) for patch in patches):
        return True
    return any(
        _has_a_switch(process, module)
        for module in owners.values()
        if not C_LIBRARY.fullmatch(module.name)
    )


def sets_jumps(process: Process) -> bool:
    """Say whether a process may use setjmp: a module other than the C library refers to it."""
    for module in process.modules:
        if _is_static(module):
            return True
        with contextlib.suppress(ElfError):
            table = module.elf.dynamic_symbols
            if not C_LIBRARY.fullmatch(module.name) and any(map(table.rows, _SETJMP)):
                return True
    return False


def _names_a_switch(module: Module) -> bool:
    try:
        # The symbols of a library that its users don't see are too many to look through.
        table = module.elf.symbols if module.program else module.elf.dynamic_symbols
        if any(table.rows(name) for name in _NAMES):
            return True
        return not _is_static(module) and all(_imports(table, name) for name in _TRICK)
    except ElfError:
        return False


def _brings_a_switch(process: Process, patch: ledger.Entry) -> bool:
    return any(loads_stack_pointer(process.read(start, size)) for start, size in patch.record.code)


def _imports(table: SymbolTable, name: str) -> bool:
    return any(not table[row].section for row in table.rows(name))


def _is_static(module: Module) -> bool:
    return module.program and not module.elf.needed


def _has_a_switch(process: Process, module: Module) -> bool:
    """Say whether the code of a module loads rsp as no compiler does."""
    try:
        for segment in module.elf.segments:
            if segment.type == PT_LOAD and segment.flags & PF_X:
                content = module.elf.read(segment.vaddr, segment.filesz)
                for offset in stack_pointer_loads(content):
                    around = content[max(0, offset - _AROUND) : offset + _AROUND]
                    if restores_stack_pointer(around, content[offset : offset + 3]):
                        continue
                    if _is_a_switch(process, module, segment.vaddr + offset):
                        return True
    except ElfError:
        pass
    return False


def _is_a_switch(process: Process, module: Module, vaddr: int) -> bool:
    """Say whether what looks like a load of rsp is one that a compiler would not make.

    In a function whose frame has no fixed size, a compiler finds it by another register than
    rsp, and says so in the call frame information.
    """
    # Most programs have no such place, and most updates need none of this.
    from hotpatch.arch.disassembler import decode  # noqa: PLC0415
    from hotpatch.dwarf.cursor import DwarfError  # noqa: PLC0415
    from hotpatch.quiescence.code import Code  # noqa: PLC0415

    symbol = module.elf.symbols.at(vaddr)
    if symbol is not None and _OF_THE_C_LIBRARY.fullmatch(symbol.name):
        return False
    start = symbol.value if symbol is not None and symbol.size else vaddr
    try:
        row = Code(process).row(module.bias + vaddr, False)
        if row.cfa.expression is not None or row.cfa.register != RSP:
            return False
        start = row.start
    except (DwarfError, OSError):
        pass
    if vaddr - start > _LARGEST:
        return True
    instructions = decode(module.elf.read(start, vaddr - start + _LONGEST), start)
    return any(instruction.address == vaddr for instruction in instructions)

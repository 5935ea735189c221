# SPDX-License-Identifier: GPL-2.0-or-later
"""Thread-local variables of the target, as the patch's code asks for them.

Each model of access (ELF Handling for Thread-Local Storage, chapter 4) has its own slots. Where the
variable has a fixed distance from the thread pointer, every model gets that: general dynamic by
a pair with module id 0, which the code of `trampolines/x86_64/tls.S` knows, so that it works in
programs without a dynamic linker too. Of a library that was opened later, only general dynamic
reaches the variables, by the C library's own __tls_get_addr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.elf import constants as c
from hotpatch.errors import Refused
from hotpatch.link.bind import Binder, Binding
from hotpatch.link.target import Definition, Module, Process
from hotpatch.link.tls import ThreadLocals

if TYPE_CHECKING:
    from hotpatch.elf.relocations import Relocation
    from hotpatch.elf.symbols import Symbol

_STATIC_MODULE = 0


class Trampolines(NamedTuple):
    """The addresses of the code that stands in for the C library's thread-local access."""

    tls_get_addr: int
    tls_descriptor: int


class Variable(NamedTuple):
    """A thread-local variable, `distance` bytes into the block of `module`."""

    name: str
    module: Module
    distance: int


class Variables:
    """Finds the thread-local variables that one patch uses, each once."""

    def __init__(self, process: Process, binder: Binder, trampolines: Trampolines | None) -> None:
        """Find them in `process`, for the patch of `binder`."""
        self.bindings: dict[str, Binding] = {}
        self.missing: dict[str, None] = {}
        self._binder = binder
        self._symbols = binder.patch.elf.dynamic_symbols
        self._places = ThreadLocals(process)
        self._resolver = trampolines.tls_descriptor if trampolines else 0
        self._found: dict[int, Definition | None] = {}

    def field(self, relocation: Relocation) -> bytes:
        """Return what a relocation of one of `TLS_TYPES` stores.

        Raises `Refused` for a variable that can't be reached that way. One that nothing
        defines is noted in `missing`.
        """
        index = relocation.symbol_index
        if index not in self._found:
            self._found[index] = self._find(index)
        found = self._found[index]
        if found is None:
            return b""
        name, distance = found.symbol.name, found.symbol.value + (relocation.addend or 0)
        return self.stored(relocation.type, Variable(name, found.module, distance))

    def stored(self, type_: int, variable: Variable) -> bytes:
        """Return what a field of a type in `THREAD_TYPES` of `hotpatch.patch.places` has to hold.

        Raises `Refused` for a variable that can't be reached that way.
        """
        words = self._words(type_, variable)
        size = 4 if type_ == r.R_X86_64_TPOFF32 else 8
        return b"".join((word & (1 << 8 * size) - 1).to_bytes(size, "little") for word in words)

    def _words(self, type_: int, variable: Variable) -> tuple[int, ...]:
        offset, module_id = self._places.place(variable.module)
        if type_ == r.R_X86_64_DTPMOD64:
            return (_module_of(offset, module_id, variable),)
        if type_ == r.R_X86_64_DTPOFF64:
            return (variable.distance + (offset or 0),)
        if type_ in (r.R_X86_64_TPOFF64, r.R_X86_64_TPOFF32):
            return (variable.distance + _fixed(offset, variable, "initial-exec"),)
        return self._resolver, variable.distance + _fixed(offset, variable, "descriptor")

    def _find(self, index: int) -> Definition | None:
        symbol = self._symbols[index]
        if not index or symbol.section != c.SHN_UNDEF:
            raise Refused(
                f"the patch has thread-local variables of its own ({symbol.name or 'static'})",
                "declare the target's as `extern __thread`; for new ones keep a table by thread id",
            )
        found = self._binder.definition(symbol)
        if found is None:
            self.missing[symbol.name] = None
            return None
        self._check(symbol, found)
        self.bindings[symbol.name] = Binding(symbol.name, found.symbol.value, found.module.path)
        return found

    def _check(self, symbol: Symbol, found: Definition) -> None:
        if found.symbol.type != c.STT_TLS:
            raise Refused(
                f"`{symbol.name}` is thread-local in the patch, but not in the target",
                "declare it without __thread in the patch",
            )


def _module_of(offset: int | None, module_id: int | None, variable: Variable) -> int:
    if offset is not None:
        return _STATIC_MODULE
    if not module_id:
        raise _not_reached(variable, "neither its module's place nor its number can be found out")
    return module_id


def _fixed(offset: int | None, variable: Variable, model: str) -> int:
    if offset is None:
        why = f"the patch's {model} access needs a fixed place in each thread"
        raise _not_reached(variable, why)
    return offset


def _not_reached(variable: Variable, why: str) -> Refused:
    return Refused(
        f"the thread-local `{variable.name}` of {variable.module.path} can't be reached: {why}",
        "compile the patch with -ftls-model=global-dynamic -mtls-dialect=gnu, or get the "
        "variable's address from a function of the target",
    )

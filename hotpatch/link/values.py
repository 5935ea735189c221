# SPDX-License-Identifier: GPL-2.0-or-later
"""What the symbols of a patch are worth: addresses of the target, or of the patch's image.

`hotpatch.link.bind` says which definition a symbol means; here this becomes the number that a
relocation works with. For a replaced function that depends on the use: code of the patch calls
the new function, while a pointer holds the old entry, as every pointer in the target does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hotpatch.elf import constants as c
from hotpatch.errors import Refused
from hotpatch.link.bind import Binder, Binding
from hotpatch.link.ifunc import resolved
from hotpatch.link.target import Definition, Process

if TYPE_CHECKING:
    from hotpatch.elf.symbols import Symbol

TLS_GET_ADDR = "__tls_get_addr"


class Value(NamedTuple):
    """What a symbol is worth; `resolver` says that `address` must be called to find out."""

    address: int
    size: int = 0
    resolver: bool = False


class Values:
    """Finds the values of one patch's symbols, each once."""

    def __init__(
        self, process: Process, binder: Binder, bias: int, tls_get_addr: int | None
    ) -> None:
        """Find them in `process`, for the patch of `binder` loaded with `bias`.

        `tls_get_addr` is the address of what takes the place of __tls_get_addr, if anything.
        """
        self.bindings: dict[str, Binding] = {}
        self.missing: dict[str, None] = {}
        self._process = process
        self._binder = binder
        self._symbols = binder.patch.elf.dynamic_symbols
        self._bias = bias
        self._tls_get_addr = tls_get_addr
        self._found: dict[tuple[int, bool], Value] = {}

    def old_entry(self, value: int) -> int | None:
        """Return the target's entry of the function that the patch's code at `value` replaces."""
        return self._binder.old_entry(value)

    def value(self, index: int, *, call: bool, own: bool) -> Value:
        """Return what the symbol in row `index` of .dynsym is worth to a relocation.

        `call` says that nothing but a call uses it, `own` that the patch's own definition is
        meant, if it has one. A symbol that nothing defines is noted in `missing`, and worth 0.
        """
        if not index:
            return Value(0)
        if own and self._symbols[index].section != c.SHN_UNDEF:
            return self._own(self._symbols[index])
        if (index, call) not in self._found:
            self._found[index, call] = self._find(self._symbols[index], call)
        return self._found[index, call]

    def _find(self, symbol: Symbol, call: bool) -> Value:
        original = self._binder.original(symbol.name)
        if original is not None:
            return self._bound(symbol, Value(original), None)
        if symbol.name == TLS_GET_ADDR and self._tls_get_addr:
            return self._bound(symbol, Value(self._tls_get_addr), None)
        if symbol.section != c.SHN_UNDEF:
            return self._defined_here(symbol, call)
        found = self._binder.definition(symbol)
        if found:
            return self._defined(symbol, found, call)
        if symbol.bind != c.STB_WEAK:
            self.missing[symbol.name] = None
        return self._bound(symbol, Value(0), None)

    def _defined_here(self, symbol: Symbol, call: bool) -> Value:
        old = self._binder.old_entry(symbol.value)
        if old is not None:
            return self._own(symbol) if call else Value(old, symbol.size)
        preempting = self._binder.preemption(symbol)
        return self._defined(symbol, preempting, call) if preempting else self._own(symbol)

    def _own(self, symbol: Symbol) -> Value:
        moved = 0 if symbol.section == c.SHN_ABS else self._bias
        return Value(symbol.value + moved, symbol.size, symbol.type == c.STT_GNU_IFUNC)

    def _defined(self, symbol: Symbol, found: Definition, call: bool) -> Value:
        """Return the value of the target's definition that `symbol` was bound to."""
        if found.symbol.type == c.STT_TLS:
            raise Refused(
                f"`{symbol.name}` is thread-local in the target, but not in the patch",
                "declare it `extern __thread` in the patch",
            )
        if call and found.symbol.type == c.STT_OBJECT:
            raise Refused(
                f"`{symbol.name}` is a function in the patch, but a variable in the target",
                f"see its declaration in the sources of {found.module.path}",
            )
        size = found.symbol.size
        canonical = None if call else self._binder.canonical(found)
        if canonical is not None:
            return self._bound(symbol, Value(canonical, size), found)
        if found.symbol.type != c.STT_GNU_IFUNC:
            return self._bound(symbol, Value(found.address, size), found)
        implementation = resolved(self._process, found)
        if implementation is None:
            return self._bound(symbol, Value(found.address, size, resolver=True), found)
        return self._bound(symbol, Value(implementation, size), found)

    def _bound(self, symbol: Symbol, value: Value, found: Definition | None) -> Value:
        path = found.module.path if found else None
        self.bindings[symbol.name] = Binding(symbol.name, value.address, path)
        return value

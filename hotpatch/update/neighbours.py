# SPDX-License-Identifier: GPL-2.0-or-later
"""A function's live code, and what lies around it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from hotpatch.elf.file import ElfError
from hotpatch.elf.symbols import Symbol
from hotpatch.errors import Refused
from hotpatch.link.scope import symbol_tables
from hotpatch.process.image import Process
from hotpatch.process.modules import Module
from hotpatch.redirect.entry import Function, Stretch

_NEAR = 160  # a little more than a short jump reaches
_LARGEST_GAP = 1 << 16


class Neighbours:
    """Looks functions up with their surroundings; the symbols of a module are sorted once."""

    def __init__(self, process: Process) -> None:
        """Look at the modules of `process`."""
        self.warnings: list[str] = []
        self._process = process
        self._sorted: dict[str, list[Symbol]] = {}

    def function(
        self, module: Module, symbol: Symbol, parts: tuple[tuple[int, int], ...] = ()
    ) -> Function:
        """Return the live code of a function; raises Refused where it has no size.

        `parts` are pieces of it that are known besides those in symbol tables: address and size.
        """
        address = module.bias + symbol.value
        if not symbol.size:
            raise Refused(
                f"the size of {symbol.name} in {module.path} is not known",
                "functions written in assembly need a .size directive to be replaceable",
            )
        symbols = self._symbols(module)
        near = self._near(symbols, symbol)
        self._warn_of_aliases(module, symbol, near)
        tables = symbol_tables(module)  # a stripped program's debug file has what it was split into
        listed = ((s.value, s.size) for t in tables for s in t.fragments(symbol) if s.size)
        fragments = dict.fromkeys((*listed, *parts))
        return Function(
            symbol.name,
            address,
            self._process.read(address, symbol.size),
            self._gaps(module, symbols, symbol),
            tuple(self._stretch(module, *part) for part in fragments),
            tuple(module.bias + s.value for s in near if s.value != symbol.value),
            self._process.read,
        )

    def _symbols(self, module: Module) -> list[Symbol]:
        if module.path not in self._sorted:
            found = module.elf.symbols.functions()
            self._sorted[module.path] = sorted(found, key=lambda s: (s.value, s.size))
        return self._sorted[module.path]

    def _stretch(self, module: Module, value: int, size: int) -> Stretch:
        return Stretch(module.bias + value, self._process.read(module.bias + value, size))

    @staticmethod
    def _near(symbols: list[Symbol], symbol: Symbol) -> list[Symbol]:
        first = bisect_left(symbols, symbol.value, key=lambda s: s.value)
        last = bisect_right(symbols, symbol.value + symbol.size, key=lambda s: s.value)
        return symbols[first:last]

    def _gaps(self, module: Module, symbols: list[Symbol], symbol: Symbol) -> tuple[Stretch, ...]:
        """Return the stretches between the end of a symbol and the start of the next."""
        lowest, highest = symbol.value - _NEAR, symbol.value + _NEAR
        first = bisect_left(symbols, lowest - _LARGEST_GAP, key=lambda s: s.value)
        last = bisect_right(
            symbols, max(highest, symbol.value + symbol.size), key=lambda s: s.value
        )
        gaps = []
        end = None
        for current in symbols[max(0, first - 1) : last + 1]:
            if end is not None and 0 < current.value - end <= _LARGEST_GAP:
                near = end <= highest and current.value >= lowest
                if near or end == symbol.value + symbol.size:
                    gaps.append(self._stretch(module, end, current.value - end))
            end = max(end or 0, current.value + current.size)
        return tuple(gaps)

    def _warn_of_aliases(self, module: Module, symbol: Symbol, near: list[Symbol]) -> None:
        names = {s.name for s in near if s.value == symbol.value and s.name != symbol.name}
        if names:
            self.warnings.append(
                f"{symbol.name} in {module.path} is the same code as {', '.join(sorted(names))}: "
                "calls of these go to the replacement too"
            )

    def check_unchanged(self, module: Module, function: Function) -> None:
        """Refuse a function whose live code is not that of its file."""
        try:
            built = module.elf.read(function.address - module.bias, len(function.code))
        except ElfError:
            return
        if built != function.code and not _relocated_text(module):
            at = next(
                i for i, (a, b) in enumerate(zip(built, function.code, strict=True)) if a != b
            )
            raise Refused(
                f"{function.name} in {module.path} differs from its file at "
                f"{function.address + at:#x}: {function.code[at:][:8].hex(' ')}, built as "
                f"{built[at:][:8].hex(' ')}",
                "a debugger's breakpoint, a tracer or another patcher is in it: end that first",
            )


def _relocated_text(module: Module) -> bool:
    """Say whether the dynamic linker itself changes code of the module (DT_TEXTREL)."""
    return 22 in module.elf.dynamic

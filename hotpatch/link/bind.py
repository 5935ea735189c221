# SPDX-License-Identifier: GPL-2.0-or-later
"""What each symbol of a patch means in the target.

An undefined symbol is looked for as a new source file of the program would have it: in the modules
that are patched and the program, first the global names, then the static ones that are unique; then
in the libraries, as the dynamic linker does. The header's own symbols come before all: the
originals of replaced functions, and statics qualified by their file.

A symbol that the patch defines itself is subject to the same preemption as in any shared object:
where the target has a global one of that name, there is one, and it is the target's. So a source
file compiled as a whole works on the target's state, not on a second copy of it. A replaced
function keeps its old address as the address of the function, by which pointers compare equal and
stay good after a revert; calls from within the patch go to the new code directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.elf import constants as c
from hotpatch.errors import Refused
from hotpatch.link import scope
from hotpatch.link.target import Definition, Module, Process

if TYPE_CHECKING:
    from hotpatch.elf.symbols import Symbol
    from hotpatch.patch.file import PatchFile
    from hotpatch.patch.manifest import Replacement

ORIGINAL = "__hotpatch_original_"
"""What HOTPATCH_ORIGINAL puts before a function's name to make its symbol."""

_QUALIFY = "say which is meant with HOTPATCH_EXTERN_STATIC(file, ...)"


class Binding(NamedTuple):
    """What a symbol of the patch was bound to; `module` is None for what no module defines."""

    symbol: str
    address: int
    module: str | None


class Binder:
    """Finds the meaning of the symbols of one patch in one target; nothing is asked twice."""

    def __init__(self, process: Process, patch: PatchFile, originals: Mapping[str, int]) -> None:
        """Find the functions that `patch` replaces in `process`; raises `Refused`.

        `originals` holds the address of the old path of each replaced function by its
        name, or by "file:name" where the patch replaces two of the same name.
        """
        self.patch = patch
        self.warnings: list[str] = []
        self.replaced = {
            replacement: scope.find_replaced(process, patch, replacement)
            for replacement in patch.replacements
        }
        self._process = process
        self._modules = list(process.modules)
        self._originals = originals
        self._statics = {reference.alias: reference for reference in patch.statics}
        self._adapted = {r.name for r in patch.replacements if r.adapts}
        self._entries = {r.value: found.address for r, found in self.replaced.items()}

    @cached_property
    def home(self) -> list[Module]:
        """The modules whose source a patch is part of: those it changes, then the program."""
        modules = [definition.module for definition in self.replaced.values()]
        modules += [module for module in self._modules if module.program]
        return list({module.path: module for module in modules}.values())

    def old_entry(self, value: int) -> int | None:
        """Return the target's entry of the function that the patch's code at `value` replaces."""
        return self._entries.get(value)

    def original(self, name: str) -> int | None:
        """Return the address that the symbol `name` stands for if HOTPATCH_ORIGINAL made it."""
        if not name.startswith(ORIGINAL):
            return None
        function = name[len(ORIGINAL) :]
        for replacement in self.patch.replacements:
            if replacement.symbol == function:
                return self._original_of(replacement)
        raise Refused(
            f"the patch uses HOTPATCH_ORIGINAL({function}), but does not replace `{function}`",
            f"add HOTPATCH_REPLACE({function}), or call the target's function by its plain name",
        )

    def _original_of(self, replacement: Replacement) -> int:
        qualified = f"{replacement.file}:{replacement.name}"
        if qualified in self._originals:
            return self._originals[qualified]
        return self._originals[replacement.name]

    def definition(self, symbol: Symbol) -> Definition | None:
        """Return what the undefined `symbol` of the patch means; None if nothing defines it.

        Raises `Refused` for a name that could mean several statics.
        """
        if symbol.name in self._statics:
            return self._file_static(symbol.name)
        return (
            self._global(symbol.name)
            or self._unique_static(symbol)
            or self._library(symbol.name, symbol.version)
            or self._unique_static(symbol, decorated=True)
        )

    def preemption(self, symbol: Symbol) -> Definition | None:
        """Return the target's symbol that takes the place of one that the patch defines.

        Raises `Refused` where the target's is data of a smaller size.
        """
        if symbol.bind == c.STB_LOCAL or symbol.visibility != c.STV_DEFAULT:
            return None
        if symbol.name in self._adapted:  # the target's has another type
            return None
        found = self._global(symbol.name)
        if found and symbol.type == c.STT_OBJECT:
            self._check_preempted_data(symbol, found)
        return found

    def _check_preempted_data(self, symbol: Symbol, found: Definition) -> None:
        if 0 < found.symbol.size < symbol.size:
            raise Refused(
                f"`{symbol.name}` has {symbol.size} bytes in the patch, and the target's, which it "
                f"would use, has {found.symbol.size}",
                "make it static in the patch, or give it another name",
            )
        if self._has_initialiser(symbol):
            self.warnings.append(
                f"`{symbol.name}` is the target's own variable: its value in the patch is not used"
            )

    def _has_initialiser(self, symbol: Symbol) -> bool:
        content = self.patch.elf.read(symbol.value, symbol.size)
        place = range(symbol.value, symbol.value + symbol.size)
        return any(content) or any(r.offset in place for r in self.patch.elf.relocations)

    def _file_static(self, alias: str) -> Definition:
        _, file, name = self._statics[alias]
        everywhere = [*self.home, *self._modules]
        hint = f"their names and that of {file} do not tell them apart: write more of its path, if "
        hint += "the symbol table has it, or give one of them another name in the program"
        for decorated in (False, True):
            for module in everywhere:
                found = scope.static_symbol(module, name, file, hint, decorated=decorated)
                if found:
                    return Definition(module, found)
        from hotpatch.link import hints  # noqa: PLC0415

        raise Refused(
            f"the target has no static `{name}` in {file}",
            hints.where_else(everywhere, name, file) or "see `nm` of the program",
        )

    def _global(self, name: str) -> Definition | None:
        for module in self.home:
            symbol = scope.global_symbol(module, name)
            if symbol:
                return self._interposed(Definition(module, symbol))
        return None

    def _interposed(self, own: Definition) -> Definition:
        """Return what a library's reference to a symbol it exports is bound to by the loader.

        That is the first definition in search order: a preloaded library's, or the program's copy
        of a variable. A library linked with -Bsymbolic prefers its own.
        """
        name, elf = own.symbol.name, own.module.elf
        flags = elf.dynamic.get(c.DT_FLAGS, [0])[0]
        symbolic = c.DT_SYMBOLIC in elf.dynamic or flags & c.DF_SYMBOLIC
        if own.module.program or symbolic or own.symbol.visibility != c.STV_DEFAULT:
            return own
        if scope.exported(own.module, name) is None:
            return own
        return self._library(name, own.symbol.version) or own

    def _unique_static(self, symbol: Symbol, *, decorated: bool = False) -> Definition | None:
        for module in self.home:
            found = scope.static_symbol(module, symbol.name, None, _QUALIFY, decorated=decorated)
            if found:
                if symbol.version and not is_static(self._process):
                    self.warnings.append(
                        f"`{symbol.name}` is bound to the static of {found.file} in {module.path}, "
                        "not to the library's function of that name"
                    )
                return Definition(module, found)
        return None

    def _library(self, name: str, version: str | None) -> Definition | None:
        for module in self._modules:
            found = scope.exported(module, name, version)
            if found:
                return Definition(module, found)
        return None

    def canonical(self, found: Definition) -> int | None:
        """Return the address that stands for a library's function in pointers, if the program's.

        A program that isn't position-independent takes the address of its own PLT entry, and its
        undefined symbol has that as its value (gABI, "Function Addresses").
        """
        if found.module.program or found.symbol.type not in (c.STT_FUNC, c.STT_GNU_IFUNC):
            return None
        for module in self._modules:
            if module.program:
                for symbol in module.elf.dynamic_symbols.by_name(found.symbol.name):
                    if symbol.section == c.SHN_UNDEF and symbol.value:
                        return module.bias + symbol.value
        return None

    def missing(self, names: list[str]) -> Refused:
        """Return the refusal for symbols that nothing in the target defines."""
        from hotpatch.link import hints  # noqa: PLC0415

        hint = hints.missing(self.home, names)
        if is_static(self._process):
            hint += " A static program has only those library functions that it uses itself."
        several = "s" if len(names) > 1 else ""
        return Refused(
            f"the target does not define the symbol{several} "
            f"{', '.join(f'`{name}`' for name in names)} that the patch uses",
            hint.strip() or "define it in the patch, or declare it weak if it may be missing",
            symbols=names,
        )


def is_static(process: Process) -> bool:
    """Tell whether the program has what it uses of its libraries within itself."""
    return not any(
        segment.type == c.PT_INTERP
        for module in process.modules
        if module.program
        for segment in module.elf.segments
    )


def check_libraries(process: Process, patch: PatchFile) -> None:
    """Refuse a patch that needs a library which the target has not loaded."""
    names = set().union(*(scope.module_names(module) for module in process.modules))
    if is_static(process):
        return
    missing = [
        name
        for name in patch.elf.needed
        if name not in names and name.rpartition("/")[2] not in names
    ]
    if missing:
        raise Refused(
            f"the patch needs {', '.join(missing)}, which the target has not loaded",
            "link the library into the patch (its .a), or link the patch without it",
        )

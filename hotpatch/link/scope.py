# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding symbols of the target by name: global ones, static ones, those of its libraries.

The dynamic linker knows only what a file exports. A patch is part of the program, so it sees
what the program's own source sees: every global symbol, exported or not, and every static one
whose name, with a source file where need be, says which is meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from hotpatch.elf import constants as c
from hotpatch.errors import Refused
from hotpatch.link.target import Definition, Module, Process

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.elf.symbols import Symbol, SymbolTable
    from hotpatch.patch.file import PatchFile
    from hotpatch.patch.manifest import Replacement, UpdatePoint

_KINDS = (c.STT_NOTYPE, c.STT_OBJECT, c.STT_FUNC, c.STT_COMMON, c.STT_TLS, c.STT_GNU_IFUNC)
_CODE = (c.STT_FUNC, c.STT_GNU_IFUNC)


def defined(symbol: Symbol) -> bool:
    """Tell whether a symbol-table entry is a definition that can be bound to."""
    return symbol.section not in (c.SHN_UNDEF, c.SHN_COMMON) and symbol.type in _KINDS


def exported(module: Module, name: str, version: str | None = None) -> Symbol | None:
    """Return what a reference to `name`, in that `version` if any, binds to in a module's .dynsym.

    The exact version is preferred, then the default one (LSB, "Symbol Versioning").
    """
    found = [
        symbol
        for symbol in module.elf.dynamic_symbols.by_name(name)
        if defined(symbol)
        and symbol.bind != c.STB_LOCAL
        and symbol.visibility in (c.STV_DEFAULT, c.STV_PROTECTED)
    ]
    if version is not None:
        exact = [symbol for symbol in found if symbol.version == version]
        found = exact or found
    return _default(found)


def _default(found: list[Symbol]) -> Symbol | None:
    """Return the definition for references that name no version, else the first."""
    for symbol in found:
        if symbol.default_version:
            return symbol
    return found[0] if found else None


def global_symbol(module: Module, name: str) -> Symbol | None:
    """Return the global symbol of a module's source, exported or hidden."""
    symbols = [
        symbol
        for table in symbol_tables(module)
        for symbol in table.by_name(name)
        if defined(symbol)
    ]
    found = [symbol for symbol in symbols if symbol.bind != c.STB_LOCAL]
    return _default(found or _one_an_address(s for s in symbols if _was_hidden(s)))


def _was_hidden(symbol: Symbol) -> bool:
    """Tell whether a local symbol was a hidden global one before it was linked.

    Linkers make these local: binutils puts them behind the symbols of all files, gold leaves the
    visibility. Where a symbol table names no files at all, statics can't be told from them.
    """
    return symbol.file is None or symbol.visibility == c.STV_HIDDEN


def static_symbols(
    module: Module, name: str, file: str | None = None, *, decorated: bool = False
) -> list[Symbol]:
    """Return a module's static functions and data called `name`, of source `file` if given.

    With `decorated`, those whose name the compiler made of `name`, such as a function's own static.
    """
    for table in symbol_tables(module):
        symbols = table.decorated(name) if decorated else table.by_name(name)
        found = _of_file((s for s in symbols if s.bind == c.STB_LOCAL), file)
        if found:
            return found
    return []


def static_symbol(
    module: Module, name: str, file: str | None, hint: str, *, decorated: bool = False
) -> Symbol | None:
    """Return the static `name` of a module; raises Refused, with `hint`, if there are several."""
    found = static_symbols(module, name, file, decorated=decorated)
    if len(found) > 1:
        places = ", ".join(f"{s.file or 'an unknown file'} (`{s.name}`)" for s in found)
        raise Refused(f"{module.path} has {len(found)} statics `{name}`: in {places}", hint)
    return found[0] if found else None


def _of_file(symbols: Iterable[Symbol], file: str | None) -> list[Symbol]:
    """Return the definitions among `symbols`, one an address, which `file` has."""
    return _one_an_address(
        s for s in symbols if defined(s) and (file is None or same_file(s.file, file))
    )


def _one_an_address(symbols: Iterable[Symbol]) -> list[Symbol]:
    found = {symbol.value: symbol for symbol in symbols}
    typed = {value: s for value, s in found.items() if s.type != c.STT_NOTYPE}
    return list((typed or found).values())


def same_file(known: str | None, wanted: str) -> bool:
    """Tell whether two names of a source file agree in as many directories as both have."""
    if known is None:
        return False
    shared = list(zip(reversed(known.split("/")), reversed(wanted.split("/")), strict=False))
    return all(one == other for one, other in shared)


def symbol_tables(module: Module) -> list[SymbolTable]:
    """Return a module's symbol table, and that of its separate debug file if it is stripped."""
    if any(section.type == c.SHT_SYMTAB for section in module.elf.sections):
        return [module.elf.symbols]
    debug = _debug_file(module.path, module.elf)
    return [module.elf.symbols, debug.symbols] if debug else [module.elf.symbols]


_debug_files: WeakKeyDictionary[ElfFile, ElfFile | None] = WeakKeyDictionary()


def _debug_file(path: str, elf: ElfFile) -> ElfFile | None:
    if elf not in _debug_files:
        from hotpatch.elf.debuglink import find_debug_file  # noqa: PLC0415
        from hotpatch.elf.file import ElfFile  # noqa: PLC0415

        found = find_debug_file(path, elf)
        _debug_files[elf] = ElfFile.open(found) if found else None
    return _debug_files[elf]


def find_replaced(
    process: Process, patch: PatchFile, replacement: Replacement | UpdatePoint
) -> Definition:
    """Return the function of the target that `replacement` takes the place of, or that is meant.

    A global function is preferred to a static one, and the program to its libraries. A static
    one of a library has to be asked for, by its file or by the library's build-id: else it could be
    a namesake of the program's, which the compiler put into its callers.

    Raises `Refused` where there is none, naming similar ones, or several.
    """
    name, file = replacement.name, replacement.file
    made_for = made_for_modules(process, patch)
    if places := getattr(replacement, "places", ()):
        module = home_of_places(process, patch)
        return Definition(module, _built_for(name, *places[0]))
    modules = made_for or list(process.modules)
    found = None if file else _global_function(modules, name)
    if found is None:
        programs = [module for module in modules if module.program]
        found = _static_function(modules if file or made_for else programs, name, file)
    if found is None:
        raise _no_function(modules, name, file)
    if found.symbol.type == c.STT_GNU_IFUNC:
        raise _indirect(process, found)
    return found


def home_of_places(process: Process, patch: PatchFile) -> Module:
    """Return the one module whose addresses a built patch knows; raises Refused."""
    modules = made_for_modules(process, patch) or [m for m in process.modules if m.program]
    if len(modules) != 1:
        raise Refused(
            f"the target has {len(modules)} modules that the patch could be for", "build it anew"
        )
    return modules[0]


def _built_for(name: str, address: int, size: int) -> Symbol:
    """Return the symbol that a function has, or had before its binary was stripped."""
    from hotpatch.elf.symbols import Symbol  # noqa: PLC0415

    bind, visibility = c.STB_LOCAL, c.STV_DEFAULT
    return Symbol(name, address, size, c.STT_FUNC, bind, visibility, 1, None, None, False)


def functions_named(process: Process, name: str, file: str | None) -> list[Definition]:
    """Return every function of the target that has this name in the source, of `file` if given.

    Those that the compiler made of it for special cases are among them. Raises Refused for none.
    """
    found: dict[int, Definition] = {}
    for module in process.modules:
        whole = None if file else global_symbol(module, name)
        for symbol in (
            *([whole] if whole else ()),
            *static_symbols(module, name, file),
            *static_symbols(module, name, file, decorated=True),
        ):
            if _is_code(module, symbol) and symbol.size:
                definition = Definition(module, symbol)
                found.setdefault(definition.address, definition)
    if not found:
        raise _no_function(list(process.modules), name, file)
    return list(found.values())


def _global_function(modules: list[Module], name: str) -> Definition | None:
    for module in modules:
        symbol = global_symbol(module, name)
        if symbol and _is_code(module, symbol):
            return Definition(module, symbol)
    return None


def _static_function(modules: list[Module], name: str, file: str | None) -> Definition | None:
    hint = "say which is meant with HOTPATCH_REPLACE_STATIC(file, function)"
    for decorated in (False, True):
        for module in modules:
            symbol = static_symbol(module, name, file, hint, decorated=decorated)
            if symbol and _is_code(module, symbol):
                return Definition(module, symbol)
    return None


def _no_function(modules: list[Module], name: str, file: str | None) -> Refused:
    from hotpatch.link import hints  # noqa: PLC0415

    where = f" in {file}" if file else ""
    names = ", ".join(module.path for module in modules[:3])
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return Refused(
        f"the target has no function `{name}`{where} (looked in {names}{more})",
        hints.where_else(modules, name, file)
        or "a function that is inlined everywhere has no code of its own to replace; "
        "a stripped program needs its separate debug file",
    )


def _indirect(process: Process, found: Definition) -> Refused:
    from hotpatch.link.ifunc import resolved  # noqa: PLC0415

    address = resolved(process, found)
    chosen = found.module.elf.symbols.at(address - found.module.bias) if address else None
    return Refused(
        f"`{found.symbol.name}` of {found.module.path} is an indirect function: it stands for one "
        "of several",
        f"replace the one that is in use, `{chosen.name}`" if chosen else "replace that one",
    )


def made_for_modules(process: Process, patch: PatchFile) -> list[Module]:
    """Return the modules that a patch is made for, [] where that is the program, or not said."""
    named = {name for name, _ in patch.build_ids}
    if not named or None in named:
        return []
    return [module for module in process.modules if named & module_names(module)]


def module_names(module: Module) -> set[str | None]:
    """Return the names that a module may be called by: its soname, and that of its file."""
    file = module.path.removesuffix(" (deleted)").rpartition("/")[2]
    return {name for name in (module.elf.soname, file, module.path) if name}


def _is_code(module: Module, symbol: Symbol) -> bool:
    if symbol.type in _CODE:
        return True
    return symbol.type == c.STT_NOTYPE and any(
        segment.type == c.PT_LOAD
        and segment.flags & c.PF_X
        and 0 <= symbol.value - segment.vaddr < segment.memsz
        for segment in module.elf.segments
    )

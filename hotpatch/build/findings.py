# SPDX-License-Identifier: GPL-2.0-or-later
"""What can't be patched, and the way out: each is a refusal that names the thing."""

from __future__ import annotations

from hotpatch.build.atoms import CODE, CONSTANT, DATA, THREAD, Atom
from hotpatch.build.binary import Binary
from hotpatch.build.closure import Closure, Unit
from hotpatch.build.objects import Object
from hotpatch.build.options import Options
from hotpatch.errors import Refused

_MOST_NAMES = 8
# What runs once, before main, and has run in the target long ago.
_STARTUP = (".init_array", ".ctors", ".preinit_array")


def check(units: list[Unit], options: Options) -> tuple[str, ...]:
    """Refuse what no patch can do; return warnings of what the user decided."""
    warnings: list[str] = []
    keep, skip = options.keep, options.skip
    for unit in units:
        _check_doubtful(unit)
        _check_aliases(unit)
        _check_types(unit, options.types)
        for atom in unit.difference.changed:
            if atom.kind == DATA:
                _check_data(unit, atom, keep, warnings)
            elif atom.kind == THREAD:
                raise _thread_local(unit, atom, "its initial value or size changed")
            elif atom.kind == CONSTANT and atom.name in keep:
                warnings.append(f"{unit.name}: `{atom.name}` stays as it is (--keep)")
            elif atom.kind == CODE:
                _check_code(unit, atom, skip, warnings)
        for atom in unit.difference.added:
            if atom.kind == THREAD:
                raise _thread_local(unit, atom, "it is new")
        for name in _run_at_start(unit.new) - _run_at_start(unit.difference.old) - skip:
            raise _initialiser(unit, name)
    return tuple(warnings)


def check_constants(units: list[Unit], binary: Binary, keep: frozenset[str]) -> None:
    """Refuse to change a constant that is also used by code which would go on with the old one."""
    for unit in units:
        for atom in unit.difference.changed:
            old = unit.old_atom(atom)
            if atom.kind != CONSTANT or atom.local or atom.name in keep or old is None:
                continue
            address = unit.old_address(old)
            own = [range(*unit.match.span(s)) for s in unit.match.placed_code()]
            others = binary.users(range(address, address + old.size)) if address else ()
            if any(not any(user in place for place in own) for user in others):
                raise Refused(
                    f"{unit.name}: the constant `{atom.name}` changed, and is used by code of "
                    "other source files, which would go on with the old one",
                    f"leave it as it is with --keep {atom.name}, or have the diff touch its users",
                )


def _check_doubtful(unit: Unit) -> None:
    if unit.difference.pairs.doubtful:
        names = ", ".join(f"`{name}`" for name in unit.difference.pairs.doubtful[:_MOST_NAMES])
        raise Refused(
            f"{unit.name}: it can't be told which static variable of the old source is which of "
            f"the new one: {names}",
            "give them different names in the diff",
        )


def check_folded(unit: Unit, old: Atom, address: int) -> None:
    """Refuse to replace a function that the linker made one of with others (--icf)."""
    names = {symbol.name for symbol in old.symbols}
    twins = {
        other.name
        for other in unit.difference.old.atoms
        if other.kind == CODE and other.name and unit.old_address(other) == address
    }
    others = sorted((unit.match.binary.functions.get(address, set()) | twins) - names)
    if others:
        listed = ", ".join(f"`{name}`" for name in others[:_MOST_NAMES])
        raise Refused(
            f"{unit.name}: `{old.name}` is one function with {listed} in the target: the linker "
            "has folded those that have the same code",
            f"leave it as it is with --skip {old.name}; have the program built with -Wl,--icf=none",
        )


def _check_aliases(unit: Unit) -> None:
    """Refuse to take apart functions that the compiler made one of, as their code was the same."""
    new_of: dict[int, Atom] = {}
    changed = {atom.number for atom in unit.difference.changed}
    for number, old in unit.difference.pairs.old_of.items():
        atom = unit.new.atoms[number]
        twin = new_of.setdefault(old, atom)
        if twin is not atom and atom.kind == CODE and {atom.number, twin.number} & changed:
            raise Refused(
                f"{unit.name}: `{twin.name}` and `{atom.name}` are one function in the target, as "
                "their code was the same, and differ in the new source",
                "change both, or have the program built with -fno-ipa-icf",
            )


def _check_types(unit: Unit, known: frozenset[str]) -> None:
    for tag, differences in unit.types.items():
        if tag not in known:
            raise Refused(
                f"{unit.name}: the diff changes a type of which the target may have objects: "
                f"{differences[0]}",
                f"carry them over: `hotpatch transform` writes the C for that, --add FILE.c takes "
                f"it along; or say --changed-type '{tag}' if no object of it outlives a call of "
                "the new code",
                types=sorted(set(unit.types) - known),
                differences=differences,
            )


def _check_data(unit: Unit, atom: Atom, keep: frozenset[str], warnings: list[str]) -> None:
    """Refuse a variable that would have to get another value or size in the target."""
    old = unit.old_atom(atom)
    name = atom.name or ""
    if atom.section.name.startswith(_STARTUP):
        return  # an array of functions: these are looked at by themselves
    if old is not None and old.size != atom.size and name not in keep:
        raise Refused(
            f"{unit.name}: `{name}` has {old.size} bytes, and {atom.size} in the new source",
            "it has a place in the target that can't grow: carry it over with a transformer "
            f"(see `hotpatch transform`), give the new one another name, or leave it as it is with "
            f"--keep {name} if the new code can do with that",
        )
    if name not in keep:
        raise Refused(
            f"{unit.name}: the initial value of `{name}` changed, and the target has long worked "
            "on it",
            f"leave it as it is there with --keep {name}, or set it in a transformer "
            "(see docs/patch-authors.md)",
        )
    warnings.append(f"{unit.name}: `{name}` keeps the value it has (--keep)")


def _check_code(unit: Unit, atom: Atom, skip: frozenset[str], warnings: list[str]) -> None:
    name = atom.name or ""
    if name.partition(".")[0] in skip:
        warnings.append(f"{unit.name}: `{name}` changed and is left as it is (--skip)")
    elif name == "main" or atom.section.name.startswith(".text.startup.main"):
        raise Refused(
            f"{unit.name}: the diff changes `main`, which runs as long as the program does",
            "leave it as it is with --skip main, if what it does at the start does not matter, or "
            "move the change into a function that it calls",
        )
    elif name in _run_at_start(unit.new):
        raise _initialiser(unit, name)


def _run_at_start(obj: Object) -> set[str]:
    """Return the functions that run before main: constructors, initialisers of C++."""
    return {
        obj.atoms[reference.atom].name or ""
        for atom in obj.atoms
        if atom.section.name.startswith(_STARTUP)
        for reference in obj.references(atom)
        if reference.atom is not None
    }


def _initialiser(unit: Unit, name: str) -> Refused:
    return Refused(
        f"{unit.name}: `{name}` runs before main, is changed or new, and in the target that time "
        "has passed",
        f"leave it as it is with --skip {name}, and do what it does in a transformer",
    )


def _thread_local(unit: Unit, atom: Atom, why: str) -> Refused:
    return Refused(
        f"{unit.name}: the thread-local variable `{atom.name}` can't be had: {why}, and the "
        "target's threads have no room for it",
        "keep a table by thread id, or a shadow variable (see docs/patch-authors.md)",
    )


def check_closure(closure: Closure) -> None:
    """Refuse a patch whose code can't be found in the binary, or whose variables can't."""
    for index, unit in enumerate(closure.units):
        atoms = [closure.atom(key) for key in closure.reasons if key[0] == index]
        replaced = [
            old for atom in atoms if (old := closure.replaces((index, atom.number))) is not None
        ]
        if missing := [old for old in replaced if not unit.verified(old)]:
            raise explained(unit, missing)
    if closure.lost:
        names = ", ".join(f"`{name}` of {unit}" for name, unit in closure.lost.items())
        raise Refused(
            f"the place of {names} in the binary can't be found: it has no symbol table, and no "
            "code that did not change refers to it",
            "give the binary's debug file",
        )


def explained(unit: Unit, missing: list[Atom]) -> Refused:
    """Return the refusal for old code that the binary does not have, with the likely cause."""
    from hotpatch.build.causes import likely_cause  # noqa: PLC0415

    names = ", ".join(f"`{old.name}`" for old in missing[:_MOST_NAMES])
    binary, differ = unit.match.binary, unit.match.mismatches
    all_code = [atom for atom in unit.match.object.atoms if atom.kind == CODE and atom.symbols]
    first = f"; first `{differ[0].function}` at +{differ[0].offset:#x}" if differ else ""
    reason = (
        f"{unit.name} as it is compiled is not what {binary.path} was made of: "
        f"{len(differ) or 'none'} of its {len(all_code)} functions "
        f"{'differ' if differ else 'were found'}{first} (needed: {names})"
    )
    return Refused(reason, likely_cause(unit), functions=[m.function for m in differ])

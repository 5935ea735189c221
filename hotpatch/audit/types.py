# SPDX-License-Identifier: GPL-2.0-or-later
"""Type safety of a patch (Hicks, Moore and Nettles, PLDI 2001): `audit_types`.

What the patch and the target both know by one name must be the same in both: types that the patch
uses, functions that it replaces, functions and variables of the target that it uses. Where the
patch declares that a type changes, the code that works on such objects has to be replaced with it
(con-freeness; see `hotpatch.audit.users`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.audit.inlined import copies_left
from hotpatch.dwarf.compare import Comparison, Sides
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.names import Named, Names
from hotpatch.dwarf.types import Ref, Types
from hotpatch.patch.manifest import ALIAS, TRANSFER, Replacement, TypeChange

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.patch.file import PatchFile
    from hotpatch.process.modules import Module

_ORIGINAL = "__hotpatch_original_"


class Replaced(NamedTuple):
    """A function that a patch replaces, and the module that it is in."""

    replacement: Replacement
    module: Module


class TypeAudit(NamedTuple):
    """What came of it."""

    problems: tuple[str, ...]
    """What doesn't fit, a sentence each; () where the patch may be applied."""
    unchecked: tuple[str, ...]
    """What could not be checked, and why."""
    checked: int
    """How many types, functions and variables were compared."""
    copies: tuple[str, ...] = ()
    """Copies of replaced functions that stay, a sentence each."""


def audit_types(patch: PatchFile, replaced: Sequence[Replaced], program: Module) -> TypeAudit:
    """Compare the types of a patch to those of the modules that it is a part of."""
    own = names_of(patch.elf, None)
    modules = list({m.path: m for m in (*(r.module for r in replaced), program)}.values())
    problems: list[str] = []
    copies: list[str] = []
    unchecked: list[str] = []
    checked = 0
    if own is None:
        unchecked.append("the patch has no debug information (compile it with -g)")
    for module in modules:
        of_module = [r for r in replaced if r.module is module]
        try:
            names = names_of(module.elf, module)
            if names is None:
                unchecked.append(f"{module.path} has no debug information")
                continue
            copies += copies_left(names, patch, of_module)
            if own is not None:
                audit = _Audit(patch, own, names, of_module)
                audit.run()
                problems += audit.problems
                checked += audit.checked
        except DwarfError as error:
            unchecked.append(f"the debug information of {module.path} or the patch: {error}")
    return TypeAudit(tuple(dict.fromkeys(problems)), tuple(unchecked), checked, tuple(copies))


def names_of(elf: ElfFile, module: Module | None) -> Names | None:
    """Return what the debug information of a file, or of its debug file, names; None without."""
    for candidate in (elf, module.debug_file() if module else None):
        if candidate is not None:
            types = Types(candidate)
            if types.present:
                return Names(types)
    return None


class _Audit:
    """The comparison of a patch and one module."""

    def __init__(
        self, patch: PatchFile, own: Names, names: Names, replaced: Sequence[Replaced]
    ) -> None:
        self.problems: list[str] = []
        self.checked = 0
        self._patch = patch
        self._own = own
        self._names = names
        self._replaced = replaced
        changes = [c for c in patch.types if names.definitions(c.target)]
        self._changes = changes
        renamed = {c.target: frozenset(c) for c in changes}
        self._comparison = Comparison(names, own, renamed, Sides("the target", "the patch"))

    def run(self) -> None:
        self._changed_types()
        self._types()
        self._functions()
        self._references()
        if self._changes:
            from hotpatch.audit.users import users_left  # noqa: PLC0415

            self.problems += users_left(self._names, self._changes, self._patch, self._replaced)

    def _changed_types(self) -> None:
        """Check what the patch declares: it knows the old layout, and carries the objects over."""
        carried = any(transfer.kind == TRANSFER for transfer in self._patch.transfers)
        for change in self._changes:
            if not carried:
                self.problems.append(
                    f"`{change.target}` changes, and nothing carries the objects over that there "
                    "are: write a HOTPATCH_TRANSFER, be it one that knows there are none"
                )
            old, new = self._names.definitions(change.target), self._own.definitions(change.old)
            others = {c.target: frozenset(c) for c in self._changes if c is not change}
            comparison = Comparison(
                self._names,
                self._own,
                {change.target: frozenset((change.old,)), **others},
                Sides("the target", "the patch"),
                inside=change.target,
            )
            if new:
                self.problems += self._closest(comparison, old, new[0], change.target)

    def _types(self) -> None:
        """Compare what both define by one name."""
        declared = {name for change in self._changes for name in change}
        for tag in self._own.tags():
            refs = self._names.definitions(tag)
            if refs and tag not in declared:
                self.checked += 1
                new = self._own.definitions(tag)[0]
                self.problems += self._closest(self._comparison, refs, new, f"`{tag}`")

    def _closest(
        self, comparison: Comparison, old: Sequence[Ref], new: Ref, what: str
    ) -> list[str]:
        """Return the differences to that of several types of one name that is most alike."""
        best: list[str] | None = None
        for ref in old:
            found = comparison.types(ref, new, what)
            if not found:
                return []
            best = found if best is None or len(found) < len(best) else best
        return best or []

    def _functions(self) -> None:
        for replacement, _ in self._replaced:
            new = _defined(self._own.functions(replacement.symbol))
            old = _of_file(self._names.functions(replacement.name), replacement.file)
            if new and old:
                self._compare_functions(old, new, f"`{replacement.name}`")

    def _references(self) -> None:
        """Compare the functions and variables of the target that the patch uses."""
        statics = {s.alias: s for s in self._patch.statics}
        for symbol in self._patch.elf.dynamic_symbols.undefined():
            name, file = symbol.name, None
            if name in statics:
                name, file = statics[name].name, statics[name].file
            if name.startswith(_ORIGINAL):
                continue
            plain = symbol.name.removeprefix(ALIAS)
            self._reference(name, file, (plain, name, symbol.name))

    def _reference(self, name: str, file: str | None, spelled: Iterable[str]) -> None:
        for called in dict.fromkeys(spelled):
            functions, variables = self._own.functions(called), self._own.variables(called)
            old = _of_file(self._names.functions(name), file)
            if functions and old:
                self._compare_functions(old, functions[0], f"`{name}`")
                return
            old = _of_file(self._names.variables(name), file)
            if variables and old:
                self.checked += 1
                what = f"variable `{name}`"
                new = variables[0].type
                self.problems += _shortest([self._comparison.types(o.type, new, what) for o in old])
                return

    def _compare_functions(self, old: Sequence[Named], new: Named, what: str) -> None:
        self.checked += 1
        what = f"function {what}"
        self.problems += _shortest(
            [self._comparison.functions(one.ref, new.ref, what) for one in old]
        )


def _shortest(found: list[list[str]]) -> list[str]:
    return min(found, key=lambda texts: (len(texts), texts))


def _defined(found: Sequence[Named]) -> Named | None:
    return next((one for one in found if not one.declaration), None)


def _of_file(found: Sequence[Named], file: str | None) -> list[Named]:
    """Return the definitions, of a source file if given; else declarations."""
    from hotpatch.link.scope import same_file  # noqa: PLC0415

    if file is not None:
        found = [one for one in found if same_file(one.file, file)]
    return [one for one in found if not one.declaration] or list(found)


__all__ = ["Replaced", "TypeAudit", "TypeChange", "audit_types"]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which types changed between two builds, and how the objects of these are reached: `Graph`.

A *changed* type has another layout in the new build. A *carrier* has not, but leads to a changed
one by typed pointers, as the head of a list does; its pointers have to be followed. What is reached
by no typed pointer is not guessed: it is listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.dwarf.compare import Comparison, Sides
from hotpatch.dwarf.names import Named, Names, tag_of
from hotpatch.dwarf.types import ARRAY, COMPOUND, POINTER, UNION, Member, Ref, Type, Types

_DEEPEST = 16


class Change(NamedTuple):
    """A type that is in both builds, in different layouts."""

    tag: str
    """As C spells it: `struct entry`, or the name of a typedef."""
    old: Ref
    new: Ref


class Root(NamedTuple):
    """A global variable of the old build from which changed objects are reached."""

    variable: Named
    kind: str
    """"pointer", "array" of pointers, or "object": a carrier by value."""
    target: str
    """The tag that it leads to."""
    number: int
    """Of elements, 1 for what is no array."""


class Graph:
    """The types of an old build seen from what changed in the new one."""

    def __init__(self, old: Names, new: Names, only: frozenset[str] = frozenset()) -> None:
        """Compare two builds; `only` are the tags of interest, all where it is empty."""
        self.old = old
        self.new = new
        self.comparison = Comparison(old, new, {}, Sides("the old build", "the new"))
        self.changes = {change.tag: change for change in self._changes(only)}
        self.carriers = self._carriers()
        self.listed: list[str] = []
        """What a human has to see to, as nothing leads there by type."""

    def _changes(self, only: frozenset[str]) -> Iterator[Change]:
        for tag in self.new.tags():
            olds = self.old.definitions(tag)
            if not olds or (only and tag not in only):
                continue
            new = self.new.definitions(tag)[0]
            _, found = self.new.types.stripped(new)
            if found is None or found.kind not in COMPOUND or found.kind == UNION:
                continue
            if found.name and tag_of(found) != tag:
                continue  # a typedef of a struct that has a name of its own
            if all(self.comparison.types(ref, new, tag) for ref in olds):
                yield Change(tag, olds[0], new)

    def tag(self, types: Types, ref: Ref | None) -> str | None:
        """Return the tag of a compound type, by which both builds know it; None for others."""
        name = ""
        for _ in range(_DEEPEST):
            if ref is None:
                return None
            found = types.get(ref)
            if found.kind in COMPOUND:
                return tag_of(found) if found.name else name or None
            if found.kind in (POINTER, ARRAY) or found.target is None:
                return None
            name = found.name or name
            ref = found.target
        return None

    def pointed(self, types: Types, ref: Ref | None) -> str | None:
        """Return the tag of what a pointer points to, None where that is no compound."""
        _, found = types.stripped(ref)
        return self.tag(types, found.target) if found and found.kind == POINTER else None

    def affected(self, tag: str | None) -> bool:
        """Tell whether objects of a type are made anew, or have pointers to such."""
        return tag in self.changes or tag in self.carriers

    def _carriers(self) -> dict[str, Ref]:
        """Return the unchanged types that lead to changed ones."""
        leads: dict[str, set[str]] = {}
        refs: dict[str, Ref] = {}
        for tag in self.old.tags():
            ref, found = self.old.types.stripped(self.old.definitions(tag)[0])
            if ref is None or found is None or found.kind not in COMPOUND or found.kind == UNION:
                continue
            if found.name and tag_of(found) != tag:
                continue
            refs[tag] = ref
            leads[tag] = {to for m in found.members for to in self._leads_to(m.type)}
        known = set(self.changes)
        while more := {tag for tag, to in leads.items() if tag not in known and to & known}:
            known |= more
        return {tag: refs[tag] for tag in sorted(known - set(self.changes)) if tag in refs}

    def _leads_to(self, ref: Ref | None) -> Iterator[str]:
        """Yield the tags that a member leads to: by a pointer, an array of these, or within it."""
        types = self.old.types
        _, found = types.stripped(ref)
        for _ in range(_DEEPEST):
            if found is None or found.kind != ARRAY:
                break
            ref = found.target
            _, found = types.stripped(ref)
        if found is None:
            return
        tag = self.pointed(types, ref) if found.kind == POINTER else self.tag(types, ref)
        if tag:
            yield tag

    def roots(self) -> list[Root]:
        """Return the global variables that lead to changed objects; notes what it can't follow."""
        found = []
        for name in self.old.all_objects():
            for variable in self.old.variables(name)[:1]:
                if not variable.declaration:
                    root = self._root(variable)
                    if root is not None:
                        found.append(root)
        return found

    def changed_variables(self) -> Iterator[str]:
        """Yield what differs of the variables that both builds have, other than by what changed."""
        tags = {change.tag: frozenset((change.tag,)) for change in self.changes.values()}
        comparison = Comparison(self.old, self.new, tags, Sides("the old build", "the new"))
        for name in self.old.all_objects():
            olds, news = self.old.variables(name)[:1], self.new.variables(name)[:1]
            if olds and news and not olds[0].declaration and olds[0].static == news[0].static:
                what = f"`{name}` ({olds[0].file})"
                yield from comparison.types(olds[0].type, news[0].type, what)[:1]

    def _root(self, variable: Named) -> Root | None:
        types = self.old.types
        ref, found = types.stripped(variable.type)
        count, inner = 1, ref
        while found is not None and found.kind == ARRAY:
            for dimension in found.counts:
                count *= dimension or 0
            inner, found = types.stripped(found.target)
        if found is None:
            return None
        kind = "array" if inner != ref else "pointer"
        if found.kind == POINTER:
            tag = self.pointed(types, inner)
            if tag is None:
                self._note_deep(variable, found)
            return Root(variable, kind, tag, count) if tag and self.affected(tag) else None
        tag = self.tag(types, inner)
        if tag in self.changes:
            self.listed.append(
                f"`{variable.name}` ({variable.file}) is itself of the type `{tag}`: its place in "
                "the target is as large as it was; give the new one another name and copy it there"
            )
            return None
        return Root(variable, "object", tag, count) if tag in self.carriers else None

    def _note_deep(self, variable: Named, pointer: Type) -> None:
        """Note a pointer to pointers: how many there are, nothing says."""
        tag = self.pointed(self.old.types, pointer.target)
        if tag and self.affected(tag):
            self.listed.append(
                f"`{variable.name}` ({variable.file}) points to pointers to `{tag}`: how many, its "
                "type does not say"
            )


def unfollowed(graph: Graph, tag: str, member: Member) -> str | None:
    """Return why a member of an affected type may lead further than is seen, None if not."""
    types = graph.old.types
    _, found = types.stripped(member.type)
    if found is None:
        return None
    if found.kind == UNION:
        return f"`{tag}`: `{member.name}` is a union: which of its members is in use is not known"
    if found.kind != POINTER:
        return None
    _, target = types.stripped(found.target)
    if target is None:
        return f"`{tag}`: `{member.name}` is a void *: what it points to is not followed"
    if target.kind == POINTER and graph.affected(graph.pointed(types, found.target)):
        return f"`{tag}`: `{member.name}` points to pointers: how many there are is not known"
    return None

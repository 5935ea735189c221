# SPDX-License-Identifier: GPL-2.0-or-later
"""The copying of one object, member by member, as C: `copy_function`, `visit_function`."""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.dwarf.spelling import spell
from hotpatch.dwarf.types import Member, Ref, Type, Types
from hotpatch.state.graph import Change, Graph
from hotpatch.state.layout import c_name, flat_array, scalar

DECIDE = "HOTPATCH: decide"
"""What stands at each place that a human has to look at; it can be searched for."""


def struct_name(graph: Graph, tag: str, *, old: bool) -> str:
    """Return the C struct for one layout of a type; no name is one of the program's own."""
    suffix = "seen" if tag not in graph.changes else "old" if old else "new"
    return f"{c_name(tag)}_{suffix}"


class Side(NamedTuple):
    """One layout of a changed type."""

    types: Types
    ref: Ref
    name: str
    """The C struct that has it."""

    @property
    def type(self) -> Type:
        """Return the type itself, without the typedef that names it."""
        found = self.types.stripped(self.ref)[1]
        assert found is not None
        return found


class Counts(NamedTuple):
    """How many members of new objects are written by whom."""

    copied: int = 0
    initialised: int = 0
    left: int = 0


class Written(NamedTuple):
    """A function, and what it leaves open."""

    text: str
    counts: Counts


class Copier:
    """Writes the functions that make objects of one layout of those of the other."""

    def __init__(self, graph: Graph, *, reverse: bool) -> None:
        """Write them from the old to the new build, or back."""
        self._graph = graph
        self._reverse = reverse
        self._how = "back" if reverse else "on"

    def name(self, tag: str) -> str:
        """Return the name of the function for a type."""
        return f"{c_name(tag)}_{self._how}"

    def sides(self, change: Change) -> tuple[Side, Side]:
        """Return the layouts that objects of a changed type have before and afterwards."""
        names = [struct_name(self._graph, change.tag, old=old) for old in (True, False)]
        old = Side(self._graph.old.types, change.old, names[0])
        new = Side(self._graph.new.types, change.new, names[1])
        return (new, old) if self._reverse else (old, new)

    def copy_function(self, change: Change) -> Written:
        """Return the function for a changed type."""
        before, after = self.sides(change)
        known = {member.name: member for member in before.type.members if member.name}
        lines, counts = [], Counts()
        for number, member in enumerate(after.type.members):
            twin = known.pop(member.name, None) if member.name else None
            if twin is None:
                twin = _same_place(before.type, member) if not member.name else None
            if twin is None:
                lines.append(f"    /* new, and 0: {_declared(after, member)} */")
                counts = counts._replace(initialised=counts.initialised + 1)
                continue
            line, decided = self._member((before, twin), (after, member), number)
            lines.append(line)
            counts = (
                counts._replace(copied=counts.copied + 1)
                if decided
                else counts._replace(left=counts.left + 1)
            )
        lines += [f"    /* {DECIDE}: gone: {_declared(before, m)} */" for m in known.values()]
        head = (
            f"static void {self.name(change.tag)}(void *new_place, const void *old_place)\n{{\n"
            f"    struct {after.name} *to = new_place;\n"
            f"    const struct {before.name} *from = old_place;\n\n    (void)to, (void)from;\n"
        )
        return Written(head + "\n".join(lines) + "\n}\n", counts)

    def _member(
        self, old: tuple[Side, Member], new: tuple[Side, Member], number: int
    ) -> tuple[str, bool]:
        """Return what copies a member, and whether that is all there is to it."""
        (before, twin), (after, member) = old, new
        name = member.name or f"unnamed_{number}"
        if member.bits is not None or twin.bits is not None:
            return _bits(twin, member, name)
        tag = self._graph.tag(before.types, twin.type)
        if tag in self._graph.changes and self._graph.tag(after.types, member.type) == tag:
            return f"    {self.name(tag or '')}(&to->{name}, &from->{name});", True
        comparison = self._graph.comparison
        pair = (member.type, twin.type) if self._reverse else (twin.type, member.type)
        if not comparison.types(*pair, name):
            return self._same(before, twin, name), True
        kinds = scalar(before.types, twin.type), scalar(after.types, member.type)
        said = f"{_declared(before, twin)} is {_declared(after, member)} now"
        if all(kinds) and ("*" in (kinds[0] or "")) == ("*" in (kinds[1] or "")):
            cast = f"({kinds[1]})" if "*" not in (kinds[1] or "") else ""
            return f"    to->{name} = {cast}from->{name}; /* {DECIDE}: {said} */", False
        size = min(before.types.size(twin.type) or 0, after.types.size(member.type) or 0)
        copy = f"__builtin_memcpy(&to->{name}, &from->{name}, {size});"
        return f"    {copy} /* {DECIDE}: {said} */", False

    def _same(self, before: Side, twin: Member, name: str) -> str:
        """Return what copies a member of one type; pointers to affected objects are followed."""
        inner, count = flat_array(before.types, twin.type)
        tag = self._graph.pointed(before.types, inner)
        if self._graph.affected(tag):
            follow = f"{self.name(tag or '')}_at"
            if inner == twin.type:
                return f"    to->{name} = {follow}(from->{name});"
            return (
                f"    for (int i = 0; i < {count}; i++)\n"
                f"        to->{name}[i] = {follow}(from->{name}[i]);"
            )
        if inner == twin.type and scalar(before.types, inner):
            return f"    to->{name} = from->{name};"
        return f"    __builtin_memcpy(&to->{name}, &from->{name}, sizeof(to->{name}));"

    def visit_function(self, tag: str, ref: Ref) -> str:
        """Return the function that changes the pointers in an object that stays where it is."""
        types = self._graph.old.types
        found = types.stripped(ref)[1]
        assert found is not None
        lines = []
        for number, member in enumerate(found.members):
            name = member.name or f"unnamed_{number}"
            inner, count = flat_array(types, member.type)
            place, indent = f"object->{name}", "    "
            target = self._graph.pointed(types, inner)
            within = self._graph.tag(types, inner)
            if inner != member.type:
                place, indent = f"object->{name}[i]", "        "
            if self._graph.affected(target):
                line = f"{indent}hotpatch_set({place}, {self.name(target or '')}_at({place}));"
            elif within in self._graph.carriers:
                line = f"{indent}{self.name(within or '')}(&{place}, &{place});"
            else:
                continue
            if inner != member.type:
                lines.append(f"    for (int i = 0; i < {count}; i++)")
            lines.append(line)
        name = struct_name(self._graph, tag, old=True)
        return (
            f"static void {self.name(tag)}(void *place, const void *same)\n{{\n"
            f"    struct {name} *object = place;\n\n    (void)object, (void)same;\n"
            + "\n".join(lines)
            + "\n}\n"
        )

    def at_function(self, tag: str) -> str:
        """Return the function that says where an object will be, or is."""
        moved = tag in self._graph.changes
        if moved:
            after = self.sides(self._graph.changes[tag])[1]
            call = f"hotpatch_move(object, sizeof(struct {after.name}), {self.name(tag)})"
        else:
            call = f"hotpatch_visit(object, {self.name(tag)})"
        return (
            f"static inline void *{self.name(tag)}_at(void *object)\n{{\n    return {call};\n}}\n"
        )


def _same_place(found: Type, member: Member) -> Member | None:
    return next(
        (m for m in found.members if not m.name and (m.offset, m.bits) == (member.offset, None)),
        None,
    )


def _bits(twin: Member, member: Member, name: str) -> tuple[str, bool]:
    old, new = (f"{m.offset}, {m.bits if m.bits is not None else 0}" for m in (twin, member))
    if twin.bits is None or member.bits is None:
        return f"    /* {DECIDE}: `{name}` is a bit-field in one of both only */", False
    note = "" if member.bits >= twin.bits else f" /* {DECIDE}: it is narrower now */"
    return f"    put_bits(to, {new}, get_bits(from, {old}));{note}", member.bits >= twin.bits


def _declared(side: Side, member: Member) -> str:
    text = spell(side.types, member.type, member.name).replace("*/", "* /")
    return f"`{text}{'' if member.bits is None else f' : {member.bits}'}`"

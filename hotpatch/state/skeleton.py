# SPDX-License-Identifier: GPL-2.0-or-later
"""The C file of a skeleton: layouts, copying, the roots, and the records of hotpatch.h."""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.dwarf.types import Type, Types
from hotpatch.state.copying import DECIDE, Copier, Counts, struct_name
from hotpatch.state.graph import Graph, Root, unfollowed
from hotpatch.state.layout import c_name, definition, flat_array

_HELPERS = """\
__attribute__((unused)) static uint64_t get_bits(const void *object, unsigned first, unsigned count)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < count; i++) {
        const unsigned char *byte = (const unsigned char *)object + (first + i) / 8;
        value |= (uint64_t)(*byte >> (first + i) % 8 & 1) << i;
    }
    return value;
}

__attribute__((unused)) static void put_bits(void *object, unsigned first, unsigned count,
                                             uint64_t value)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned char *byte = (unsigned char *)object + (first + i) / 8;
        *byte = (unsigned char)((*byte & ~(1u << (first + i) % 8)) |
                                (unsigned)(value >> i & 1) << (first + i) % 8);
    }
}
"""


class Filled(NamedTuple):
    """A changed type, and who writes how many of its new members."""

    tag: str
    counts: Counts


class Skeleton(NamedTuple):
    """The file, and what is to be told of it."""

    text: str
    types: tuple[Filled, ...]
    roots: tuple[str, ...]
    listed: tuple[str, ...]
    """What was not found, a sentence each."""


def skeleton(graph: Graph) -> Skeleton:
    """Write the transformers of what changed between two builds."""
    roots = graph.roots()
    forth, back = Copier(graph, reverse=False), Copier(graph, reverse=True)
    filled, parts = [], []
    for copier in (forth, back):
        functions = [_declarations(graph, copier)]
        for change in graph.changes.values():
            written = copier.copy_function(change)
            functions.append(written.text)
            if copier is forth:
                filled.append(Filled(change.tag, written.counts))
        functions += [copier.visit_function(tag, ref) for tag, ref in graph.carriers.items()]
        parts.append("\n".join(functions))
    listed = _listed(graph, roots)
    head = _head(graph, listed)
    body = [
        "#include <hotpatch.h>\n",
        _layouts(graph),
        _HELPERS,
        "\n".join(_global(graph, root) for root in roots),
        parts[0],
        _runner("carry_over", "HOTPATCH_TRANSFER", graph, forth, roots),
        parts[1],
        _runner("carry_back", "HOTPATCH_REVERSE", graph, back, roots),
        _types(graph),
    ]
    names = tuple(f"{root.variable.name} ({root.variable.file})" for root in roots)
    return Skeleton(head + "\n".join(body), tuple(filled), names, tuple(listed))


def _head(graph: Graph, listed: list[str]) -> str:
    lines = [
        "/*",
        " * State transformers, written by `hotpatch transform`; the new code is yours.",
    ]
    lines += [" *", f" * Search for `{DECIDE}`: what stands there is for you to decide."]
    lines += [" * Each pointer is taken to point to one object, at its beginning."]
    if listed:
        lines += [" *", " * Not found, and for you to see to:"]
        lines += [f" *   {text.replace('*/', '* /')}" for text in listed]
    tags = ", ".join(graph.changes)
    return "\n".join([*lines, " *", f" * Changed: {tags}", " */\n"])


def _layouts(graph: Graph) -> str:
    """Return the definitions, each behind those that are within it."""
    done: dict[str, str] = {}

    def define(types: Types, tag: str, found: Type, old: bool) -> str:
        name = struct_name(graph, tag, old=old)
        if name not in done:
            embedded = {}
            done[name] = ""  # for one that is within itself, which can't be
            for number, member in enumerate(found.members):
                inner, _ = flat_array(types, member.type)
                within = graph.tag(types, inner)
                below = types.stripped(inner)[1]
                if within and below and graph.affected(within):
                    embedded[member.name or f"unnamed_{number}"] = define(types, within, below, old)
            del done[name]
            done[name] = definition(types, found, name, embedded)
        return name

    for change in graph.changes.values():
        for names, ref, old in ((graph.old, change.old, True), (graph.new, change.new, False)):
            found = names.types.stripped(ref)[1]
            if found is not None:
                define(names.types, change.tag, found, old)
    for tag, ref in graph.carriers.items():
        define(graph.old.types, tag, graph.old.types.get(ref), True)
    return "\n\n".join(done.values()) + "\n"


def _declarations(graph: Graph, copier: Copier) -> str:
    tags = [*graph.changes, *graph.carriers]
    lines = [f"static void {copier.name(tag)}(void *, const void *);" for tag in tags]
    lines += [_unused(copier.at_function(tag)) for tag in tags]
    return "\n".join(lines)


def _unused(text: str) -> str:
    """Return a function that need not be called."""
    return text.replace("static inline", "__attribute__((unused)) static inline", 1)


def _global(graph: Graph, root: Root) -> str:
    """Return the declaration of a global variable of the target, under a name of our own."""
    name = root.variable.name
    base = (
        f"struct {struct_name(graph, root.target, old=True)}" if root.kind == "object" else "void *"
    )
    if root.kind == "array" or (root.kind == "object" and root.number > 1):
        base += f"[{root.number}]"
    alias = f"target_{c_name(name)}"
    if root.variable.static:
        file = root.variable.file
        return f'HOTPATCH_EXTERN_STATIC_DATA_AS({alias}, "{file}", {base}, {name});'
    return f'extern __typeof__({base}) {alias} __asm__("{name}");'


def _runner(function: str, record: str, graph: Graph, copier: Copier, roots: list[Root]) -> str:
    lines = []
    for root in roots:
        alias = f"target_{c_name(root.variable.name)}"
        place = f"{alias}[i]" if root.number > 1 or root.kind == "array" else alias
        if root.kind == "object":
            act = f"{copier.name(root.target)}(&{place}, &{place});"
        else:
            act = f"hotpatch_set({place}, {copier.name(root.target)}_at({place}));"
        if place != alias:
            lines.append(f"    hotpatch_each (i, {root.number})\n        {act}")
        else:
            lines.append(f"    {act}")
    if not roots:
        lines.append(f"    /* {DECIDE}: no global variable leads to an object that changed */")
    body = "\n".join([*lines, "    hotpatch_move_all();", "    return 0;"])
    return f"static int {function}(void)\n{{\n{body}\n}}\n{record}({function});\n"


def _types(graph: Graph) -> str:
    """Return the records that say which types change, spelled as the target does."""
    lines = []
    for tag in graph.changes:
        old, new = (struct_name(graph, tag, old=old) for old in (True, False))
        lines.append(f"HOTPATCH_TYPE({tag}, struct {old}, struct {new});")
    return "\n".join(lines) + "\n"


def _listed(graph: Graph, roots: list[Root]) -> list[str]:
    """Return what is not followed in the types that objects are reached by."""
    found = [*graph.listed, *graph.changed_variables()]
    types = graph.old.types
    for tag in (*graph.changes, *graph.carriers):
        ref = graph.changes[tag].old if tag in graph.changes else graph.carriers[tag]
        members = types.stripped(ref)[1]
        for member in members.members if members else ():
            if reason := unfollowed(graph, tag, member):
                found.append(reason)
    if not roots:
        found.append("no global variable leads to an object that changed")
    return list(dict.fromkeys(found))

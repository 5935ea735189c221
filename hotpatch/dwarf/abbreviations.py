# SPDX-License-Identifier: GPL-2.0-or-later
"""Abbreviations: which attributes an entry of .debug_info has, and how to pass over them.

What .debug_abbrev (DWARF 5, 7.5.3) declares is turned into what reading takes: most entries are
only passed over, and most of those have a size that is known beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.dwarf import constants as c
from hotpatch.dwarf.cursor import Cursor, DwarfError
from hotpatch.dwarf.forms import Layout, Raw, ReadForm, reader_of, size_of

_MOST_ATTRIBUTES = 256  # of one entry; compilers write some 20

Value = tuple[int, Raw]
"""A form, and what stands there."""


class Attribute(NamedTuple):
    """An attribute to be read; `constant` is that of DW_FORM_implicit_const."""

    name: int
    form: int
    read: ReadForm
    constant: int


class Abbreviation(NamedTuple):
    """What entries with one abbreviation code have in common."""

    tag: int
    children: bool
    attributes: tuple[Attribute, ...]
    size: int | None
    """The attributes' size in bytes, None where it varies."""
    steps: tuple[int | ReadForm, ...]
    """How to pass over them: a number of bytes, or what reads a value of a varying size."""
    sibling: bool
    """Whether the last 4 bytes are the offset of the next entry that is no child of this one."""

    def skip(self, cursor: Cursor) -> None:
        """Move a cursor behind the attributes of an entry."""
        for step in self.steps:
            if isinstance(step, int):
                cursor.at += step
            else:
                step(cursor)

    def values(self, cursor: Cursor, layout: Layout) -> dict[int, Value]:
        """Read the attributes of an entry, by their names (DW_AT_*)."""
        found: dict[int, Value] = {}
        for name, form, read, constant in self.attributes:
            if form == c.DW_FORM_implicit_const:
                found[name] = form, constant
            elif form == c.DW_FORM_indirect:
                actual = cursor.uleb128()
                found[name] = actual, reader_of(actual, layout)(cursor)
            else:
                found[name] = form, read(cursor)
        return found


def read_abbreviations(
    cursor: Cursor, layout: Layout, last: int | None = None
) -> dict[int, Abbreviation]:
    """Return the table that begins at a place in .debug_abbrev, by code; raises DwarfError.

    What is behind the code `last` is left out.
    """
    table: dict[int, Abbreviation] = {}
    while code := cursor.uleb128():
        tag, children = cursor.uleb128(), cursor.u1()
        attributes: list[Attribute] = []
        while (pair := (cursor.uleb128(), cursor.uleb128())) != (0, 0):
            if len(attributes) >= _MOST_ATTRIBUTES:
                raise DwarfError(f"an entry of more than {_MOST_ATTRIBUTES} attributes")
            attributes.append(_attribute(*pair, cursor, layout))
        table[code] = _abbreviation(tag, bool(children), attributes, layout)
        if code == last:
            break
    return table


def _attribute(name: int, form: int, cursor: Cursor, layout: Layout) -> Attribute:
    if form == c.DW_FORM_implicit_const:
        return Attribute(name, form, Cursor.u1, cursor.sleb128())
    if form == c.DW_FORM_indirect:

        def indirect(cursor: Cursor) -> Raw:
            return reader_of(cursor.uleb128(), layout)(cursor)

        return Attribute(name, form, indirect, 0)
    return Attribute(name, form, reader_of(form, layout), 0)


def _abbreviation(
    tag: int, children: bool, attributes: list[Attribute], layout: Layout
) -> Abbreviation:
    steps: list[int | ReadForm] = []
    for attribute in attributes:
        size = size_of(attribute.form, layout)
        if size is None:
            steps.append(attribute.read)
        elif steps and isinstance(steps[-1], int):
            steps[-1] += size
        else:
            steps.append(size)
    last = attributes[-1][:2] if attributes else None
    sizes = [step for step in steps if isinstance(step, int)]
    return Abbreviation(
        tag,
        children,
        tuple(attributes),
        sum(sizes) if len(sizes) == len(steps) else None,
        tuple(steps),
        last == (c.DW_AT_sibling, c.DW_FORM_ref4),
    )

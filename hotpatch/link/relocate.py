# SPDX-License-Identifier: GPL-2.0-or-later
"""Applying the relocations of a patch to its image.

All of them are done here, before anything is written to the target: what the dynamic linker would
do lazily is bound now, and what it would find by running code is read from the target. What can't
be known without running code becomes a `Call`, to be made at the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.elf import constants as c
from hotpatch.errors import Refused
from hotpatch.link import layout
from hotpatch.link.values import Values
from hotpatch.link.variables import Variable, Variables
from hotpatch.patch.manifest import records_range, string_at
from hotpatch.patch.places import THREAD_TYPES

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.elf.relocations import Relocation
    from hotpatch.link.target import Module
    from hotpatch.patch.places import PlaceEntry


class Call(NamedTuple):
    """A function to be run in the target at the commit.

    `kind` is "ifunc" (the result belongs at `slot`), "constructor" or "destructor".
    """

    kind: str
    address: int
    slot: int | None = None


class Relocator:
    """Relocates one image; `calls` says afterwards what is left to be done in the target."""

    def __init__(
        self, elf: ElfFile, image: bytearray, base: int, values: Values, variables: Variables
    ) -> None:
        """Take the `image` of `elf`, which will lie at address `base`, and what symbols mean."""
        self.calls: list[Call] = []
        self._elf = elf
        self._image = image
        self._start = layout.span(elf).start
        self._bias = base - self._start
        self._values = values
        self._variables = variables
        self._own_places = own_places(elf)

    def run(self) -> None:
        """Apply every relocation; raises `Refused` for one that can't be.

        Symbols that nothing defines are noted in `values` and `variables`, and go on as 0.
        """
        for relocation in self._elf.relocations:
            self._apply(relocation)

    def fill(self, place: PlaceEntry, module: Module) -> None:
        """Fill a field that refers to `module`, or into the image where it says so."""
        start = place.offset - self._start
        if place.type in THREAD_TYPES:
            name = string_at(self._elf, place.name or None) or "?"
            field = self._variables.stored(place.type, Variable(name, module, place.value))
        else:
            field = self._near(place, self._bias if place.inside else module.bias)
        if start + len(field) > len(self._image):
            self._image.extend(bytes(start + len(field) - len(self._image)))
        self._image[start : start + len(field)] = field

    def _near(self, place: PlaceEntry, bias: int) -> bytes:
        try:
            operands = r.Operands(P=self._bias + place.offset, S=place.value + bias)
            return r.relocated(place.type, operands)
        except r.RelocationOverflow as error:
            raise Refused(
                f"{self._elf.name} does not reach the target from where there is room for it: "
                f"{error}",
                "there is no free memory near enough; restart the target",
            ) from None

    def _apply(self, relocation: Relocation) -> None:
        type_ = relocation.type
        if type_ == r.R_X86_64_NONE:
            return
        if type_ in r.TLS_TYPES:
            self._store(relocation, self._variables.field(relocation))
        elif type_ == r.R_X86_64_IRELATIVE:
            self._fill_later(relocation, self._bias + (relocation.addend or 0))
        elif type_ == r.R_X86_64_RELATIVE:
            self._relative(relocation)
        elif type_ in r.RULES:
            self._symbolic(relocation)
        else:
            raise self._unsupported(relocation)

    def _relative(self, relocation: Relocation) -> None:
        addend = relocation.addend
        if addend is None:
            place = self._place(relocation, 8)
            addend = int.from_bytes(self._image[place : place + 8], "little")
        old = None if self._is_own(relocation) else self._values.old_entry(addend)
        if old is None:
            self._calculate(relocation, r.Operands(A=addend, B=self._bias))
        else:
            self._calculate(relocation, r.Operands(A=old))

    def _symbolic(self, relocation: Relocation) -> None:
        value = self._values.value(
            relocation.symbol_index,
            call=relocation.type == r.R_X86_64_JUMP_SLOT,
            own=self._is_own(relocation),
        )
        if value.resolver:
            if relocation.type not in r.FUNCTION_POINTER_TYPES or relocation.addend:
                raise self._unsupported(relocation)
            self._fill_later(relocation, value.address)
            return
        operands = r.Operands(
            A=relocation.addend or 0,
            P=self._bias + relocation.offset,
            S=value.address,
            Z=value.size,
        )
        self._calculate(relocation, operands)

    def _calculate(self, relocation: Relocation, operands: r.Operands) -> None:
        try:
            self._store(relocation, r.relocated(relocation.type, operands))
        except r.RelocationOverflow as error:
            raise Refused(
                f"{self._elf.name} has code that reaches only nearby addresses: {error}",
                "compile every object of it with -fPIC",
            ) from None

    def _store(self, relocation: Relocation, field: bytes) -> None:
        place = self._place(relocation, len(field))
        self._image[place : place + len(field)] = field

    def _fill_later(self, relocation: Relocation, resolver: int) -> None:
        self._place(relocation, 8)
        self.calls.append(Call("ifunc", resolver, self._bias + relocation.offset))

    def _place(self, relocation: Relocation, size: int) -> int:
        """Return the offset of a field in the image; raises `Refused` for one in read-only code."""
        start = relocation.offset
        if not layout.writable(self._elf, range(start, start + size)):
            raise Refused(
                f"{self._elf.name} has a relocation in its code, at {start:#x}",
                "compile every object of it with -fPIC",
            )
        place = start - self._start
        if place + size > len(self._image):
            self._image.extend(bytes(place + size - len(self._image)))
        return place

    def _is_own(self, relocation: Relocation) -> bool:
        """Tell whether the place is for the patch's own function, whatever the target has."""
        return any(relocation.offset in place for place in self._own_places)

    def _unsupported(self, relocation: Relocation) -> Refused:
        name = r.relocation_name(relocation.type)
        return Refused(
            f"{self._elf.name} has a relocation that can't be done: {name} at "
            f"{relocation.offset:#x}",
            "compile every object of it with -fPIC and link it with -shared",
        )


def own_places(elf: ElfFile) -> tuple[range, ...]:
    """Return where pointers to the patch's own functions stand: its records and initialisers."""
    arrays = (
        (c.DT_INIT_ARRAY, c.DT_INIT_ARRAYSZ),
        (c.DT_FINI_ARRAY, c.DT_FINI_ARRAYSZ),
    )
    places = [records_range(elf)]
    for address, size in arrays:
        if address in elf.dynamic and size in elf.dynamic:
            start = elf.dynamic[address][-1]
            places.append(range(start, start + elf.dynamic[size][-1]))
    return tuple(places)

# SPDX-License-Identifier: GPL-2.0-or-later
"""From what a patch has to hold to one object file that `ld -shared` makes the patch of.

Each atom becomes a section. What the code refers to is one of three: in the patch, which is left
to the linker; a library's, an undefined symbol that hotpatch binds when the patch is applied; or
the target's own, at an address of that build. The last kind the linker can't express in a
shared object, as the code was compiled for the program and counts on being near. Those relocations
are taken out and put in a table of their own, the *places* (see `hotpatch.patch.places`).
"""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.build.atoms import CODE, Atom
from hotpatch.build.closure import BLOCK, Closure, Key, Place
from hotpatch.build.objects import Object, Reference
from hotpatch.build.relocatable import Sec, Sym
from hotpatch.build.unwinding import Entry, unwinding
from hotpatch.elf import constants as c
from hotpatch.elf.header import Section
from hotpatch.errors import Refused
from hotpatch.patch import places

_WORD = 8
_POINTER = (r.R_X86_64_64, _WORD)
_CODE_RELATIVE = {r.R_X86_64_32, r.R_X86_64_32S}
_FUNCTION_ALIGN = 16
_MODULE_AND_OFFSET = (r.R_X86_64_DTPMOD64, r.R_X86_64_DTPOFF64)
_THREAD_SLOTS = {
    r.R_X86_64_TLSGD: _MODULE_AND_OFFSET,
    r.R_X86_64_GOTTPOFF: (r.R_X86_64_TPOFF64,),
    r.R_X86_64_GOTPC32_TLSDESC: (r.R_X86_64_TLSDESC,),
}


class Function(NamedTuple):
    """A function of the patch: its symbol, and what it takes the place of, None for nothing."""

    key: Key
    symbol: Sym
    old: Atom | None


class Assembly:
    """The sections and symbols of a patch, as they are put together."""

    def __init__(self, closure: Closure) -> None:
        """Assemble all that is in `closure`; raises Refused for what can't be linked."""
        self.sections: list[Sec] = []
        self.symbols: list[Sym] = []
        self.functions: list[Function] = []
        self._closure = closure
        self._atoms: dict[Key, Sym] = {}
        self._libraries: dict[str, Sym] = {}
        self._texts: dict[tuple[bytes, int, int], Sym] = {}
        self._slots: dict[tuple[Place, int], Sym] = {}
        self._table = Sec(places.SECTION, c.SHT_PROGBITS, c.SHF_ALLOC | c.SHF_WRITE, _WORD)
        self._names: dict[str, Sym] = {}
        self.exceptions = False
        """Whether exceptions may be thrown in it or through it."""
        for key in sorted(closure.reasons):
            self._declare(key)
        for key in sorted(closure.reasons):
            self._fill(key)
        self._unwinding()
        for index in range(len(closure.units)):
            self._debug(index)
        if self._table.data:
            self.sections.append(self._table)

    def _section(self, section: Sec) -> Sec:
        self.sections.append(section)
        return section

    def _declare(self, key: Key) -> None:
        """Make the section and the symbols of an atom."""
        unit, atom = self._closure.units[key[0]], self._closure.atom(key)
        source = atom.section
        align = max(source.align, 1) if atom.start % max(source.align, 1) == 0 else 1
        if atom.kind == CODE:
            align = max(align, _FUNCTION_ALIGN)
        flags = source.flags & (c.SHF_ALLOC | c.SHF_WRITE | c.SHF_EXECINSTR)
        content = b"" if source.type == c.SHT_NOBITS else unit.new.data(atom)
        kind = c.SHT_NOBITS if source.type == c.SHT_NOBITS else c.SHT_PROGBITS
        name = source.name
        if atom.name and not name.endswith(atom.name):
            name = f"{name}.{atom.name}"
        section = self._section(Sec(name, kind, flags, align, content, atom.size))
        first = section.symbol
        for number, symbol in enumerate(atom.symbols):
            own = Sym(symbol.name, section, 0, symbol.size, symbol.type)
            self.symbols.append(own)
            first = own if not number else first
        self._atoms[key] = first
        if atom.kind == CODE and atom.symbols:
            self.functions.append(Function(key, first, self._closure.replaces(key)))

    def _fill(self, key: Key) -> None:
        section = self._atoms[key].section
        obj = self._closure.units[key[0]].new
        assert section is not None
        for reference in obj.references(self._closure.atom(key)):
            self._relocate(key[0], section, reference, reference.offset)

    def _relocate(self, index: int, section: Sec, reference: Reference, offset: int) -> None:
        """Turn a reference of the source into a relocation of `section`, or into a place."""
        type_, addend = reference.type, reference.delta
        if type_ == r.R_X86_64_NONE:
            return
        if type_ == r.R_X86_64_PC8:
            raise Refused(
                f"another function gets to `{self._closure.name((index, reference.atom or 0))}` by "
                "a short jump, which can't be lengthened",
                "compile both builds with -ffunction-sections",
            )
        if reference.literal is not None:
            self._inner(section, offset, type_, self._text(index, reference), addend)
            return
        meaning = self._closure.meaning(index, reference)
        if isinstance(meaning, str):
            self._library(section, offset, reference, meaning)
        elif not isinstance(meaning, Place):
            self._inner(section, offset, type_, self._atoms[meaning], addend)
        elif meaning.thread:
            self._thread(section, offset, reference, meaning)
        elif type_ in r.GOT_TYPES:
            slot = self._slot(meaning, r.R_X86_64_64)
            section.relocations.append((offset, r.R_X86_64_PC32, slot, addend))
        elif type_ in r.RULES:
            self._place(section, offset, type_, meaning, addend)
        else:
            raise self._unsupported(reference)

    def _inner(self, section: Sec, offset: int, type_: int, symbol: Sym, addend: int) -> None:
        """Refer to something in the patch; an absolute field of 32 bits waits for its place."""
        if type_ in _CODE_RELATIVE and section.flags & c.SHF_ALLOC:
            self._entry(section, offset, type_, symbol.name, symbol, addend)
        else:
            section.relocations.append((offset, type_, symbol, addend))

    def _library(self, section: Sec, offset: int, reference: Reference, name: str) -> None:
        """Refer to something that a library defines, or that nothing does yet."""
        type_ = r.R_X86_64_PLT32 if reference.branch else reference.type
        if type_ in (r.R_X86_64_PC32, *_CODE_RELATIVE):
            raise Refused(
                f"the new code takes the address of `{name}`, which is a library's and which the "
                "program has not used before, in a way that only programs can",
                "compile the program with -fPIC, or get it from a function of the program",
            )
        if name not in self._libraries:
            source = reference.symbol
            kind = c.STT_TLS if source.type == c.STT_TLS else c.STT_NOTYPE
            bind = c.STB_WEAK if source.bind == c.STB_WEAK else c.STB_GLOBAL
            self._libraries[name] = Sym(name, type=kind, bind=bind)
            self.symbols.append(self._libraries[name])
        section.relocations.append((offset, type_, self._libraries[name], reference.delta))

    def _thread(self, section: Sec, offset: int, reference: Reference, place: Place) -> None:
        """Refer to a thread-local variable of the target."""
        type_ = reference.type
        if type_ == r.R_X86_64_TPOFF32:
            self._place(section, offset, type_, place, reference.delta)
        elif type_ == r.R_X86_64_DTPOFF32:
            field = (place.address + reference.delta).to_bytes(4, "little", signed=True)
            section.data = section.data[:offset] + field + section.data[offset + 4 :]
        elif type_ == r.R_X86_64_TLSLD:
            slot = self._slot(BLOCK, *_MODULE_AND_OFFSET)
            section.relocations.append((offset, r.R_X86_64_PC32, slot, reference.delta))
        elif place.name in self._closure.exported:
            self._library(section, offset, reference, place.name)
        elif type_ in _THREAD_SLOTS:
            slot = self._slot(place, *_THREAD_SLOTS[type_])
            section.relocations.append((offset, r.R_X86_64_PC32, slot, reference.delta))
        elif type_ != r.R_X86_64_TLSDESC_CALL:
            raise self._unsupported(reference)

    def _place(self, section: Sec, offset: int, type_: int, place: Place, addend: int) -> None:
        self._entry(section, offset, type_, place.name, None, place.address + addend)

    def _entry(
        self, section: Sec, offset: int, type_: int, name: str, symbol: Sym | None, value: int
    ) -> None:
        """Add a row to the table of places."""
        at, table = len(self._table.data), self._table
        table.data += places.pack(0 if symbol else value, type_, inside=symbol is not None)
        table.relocations.append((at + places.PLACE, *_word(section.symbol, offset)))
        if name:
            table.relocations.append((at + places.NAME, *_word(self._name(name), 0)))
        if symbol:
            table.relocations.append((at + places.VALUE, *_word(symbol, value)))

    def _slot(self, place: Place, type_: int, *more: int) -> Sym:
        """Return a word, or several, by which code finds something of the target's.

        A descriptor of a thread-local variable is one of two words.
        """
        if (place, type_) not in self._slots:
            flags = c.SHF_ALLOC | c.SHF_WRITE
            size = 2 * _WORD if more or type_ == r.R_X86_64_TLSDESC else _WORD
            name = f".data.rel.ro.{place.name}"
            slot = self._section(Sec(name, c.SHT_PROGBITS, flags, _WORD, bytes(size)))
            self._slots[place, type_] = slot.symbol
            for number, one in enumerate((type_, *more)):
                self._place(slot, number * _WORD, one, place, 0)
        return self._slots[place, type_]

    def _text(self, index: int, reference: Reference) -> Sym:
        """Return a string or constant, each once in the patch."""
        source = self._literal_section(self._closure.units[index].new, reference)
        literal = reference.literal or b""
        key = literal, source.flags, source.align
        if key not in self._texts:
            flags = source.flags & ~c.SHF_GROUP
            name = ".rodata.str" if flags & c.SHF_STRINGS else ".rodata.cst"
            name += f"{source.entsize}.{source.align}"
            section = Sec(
                name, c.SHT_PROGBITS, flags, source.align, literal, entsize=source.entsize
            )
            # A named symbol: of a section's own the linker takes the addend for a place in it.
            self._texts[key] = Sym(f".LC{len(self._texts)}", self._section(section))
            self.symbols.append(self._texts[key])
        return self._texts[key]

    def _literal_section(self, obj: Object, reference: Reference) -> Section:
        return obj.elf.sections[reference.symbol.section]

    def _name(self, name: str) -> Sym:
        if name not in self._names:
            section = Sec(
                ".rodata.hotpatch",
                c.SHT_PROGBITS,
                c.SHF_ALLOC | c.SHF_MERGE | c.SHF_STRINGS,
                1,
                name.encode() + b"\0",
                entsize=1,
            )
            self._names[name] = Sym(f".LN{len(self._names)}", self._section(section))
            self.symbols.append(self._names[name])
        return self._names[name]

    def _unwinding(self) -> None:
        """Write the .eh_frame of the functions, with each CIE once for a source file."""
        out = Sec(".eh_frame", c.SHT_PROGBITS, c.SHF_ALLOC, _WORD)
        known: dict[tuple[int, int, int], int] = {}
        for index, number in sorted(self._closure.reasons):
            obj = self._closure.units[index].new
            if obj.atoms[number].kind == CODE:
                for entry in unwinding(obj).of(number):
                    self._frame(out, index, entry, known)
        if out.data:
            out.data += bytes(4)  # the end of what is registered with the run-time system
            self.sections.append(out)

    def _frame(
        self, out: Sec, index: int, entry: Entry, known: dict[tuple[int, int, int], int]
    ) -> None:
        at = len(out.data)
        key = index, entry.section.index, entry.offset
        if key in known:
            return
        known[key] = at
        data = entry.data
        # A CIE of C++ names the personality routine: "zPLR" (LSB, "Exception Frames").
        self.exceptions |= entry.cie is None and b"P" in data[9:16].partition(b"\0")[0]
        if entry.cie is not None:
            distance = at + 4 - known[index, entry.section.index, entry.cie]
            data = data[:4] + distance.to_bytes(4, "little") + data[8:]
        out.data += data
        for reference in entry.references:
            self._relocate(index, out, reference, at + reference.offset)

    def _debug(self, index: int) -> None:
        """Take over the debug information of a source file; of what is left out it says 0."""
        obj = self._closure.units[index].new
        copies = {
            section.index: self._section(
                Sec(
                    section.name,
                    section.type,
                    section.flags & ~c.SHF_GROUP,
                    section.align,
                    obj.elf.section_data(section),
                    entsize=section.entsize,
                )
            )
            for section in obj.elf.sections
            if section.name.startswith(".debug_") and section.type != c.SHT_RELA
        }
        for number, copy in copies.items():
            section = obj.elf.sections[number]
            for row in obj.relocations(number):
                reference = obj.reference(section, row, 0)
                target = copies.get(reference.symbol.section)
                if target is not None:
                    offset = reference.symbol.value + row.addend
                    copy.relocations.append((row.offset, row.type, target.symbol, offset))
                elif reference.atom is not None and (index, reference.atom) in self._atoms:
                    symbol = self._atoms[index, reference.atom]
                    if symbol.type != c.STT_TLS:
                        copy.relocations.append((row.offset, row.type, symbol, reference.delta))

    def _unsupported(self, reference: Reference) -> Refused:
        return Refused(
            f"the new code refers to `{reference.symbol.name}` by "
            f"{r.relocation_name(reference.type)}, which is not supported",
            "compile it with -mcmodel=small",
        )


def _word(symbol: Sym, offset: int) -> tuple[int, Sym, int]:
    return r.R_X86_64_64, symbol, offset

# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the thread-local variables of a target's modules lie.

The block of a module that was loaded at start-up has one distance from the thread pointer in
every thread (variant II of "ELF Handling for Thread-Local Storage"). The program's is known from
its PT_TLS. A library's is what the dynamic linker made of the library's own relocations: the value
of a slot less the part of it that the file knows. That holds for any C library. glibc also tells
it in its list of loaded objects, at places that it describes for debuggers (nptl_db).

A library opened later has its block in each thread's own vector of blocks, by module id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import relocations as r
from hotpatch.arch.toolchain import is_static_tls_resolver
from hotpatch.elf import constants as c
from hotpatch.link.scope import exported
from hotpatch.link.target import Module, Process, signed, word

if TYPE_CHECKING:
    from hotpatch.elf.header import Segment
    from hotpatch.elf.relocations import Relocation

_DESCRIPTOR = Struct("<III")  # bits, elements, offset: db_desc_t of glibc's nptl_db
_LINK_MAP = Struct("<QQQQ")  # l_addr, l_name, l_ld, l_next: struct link_map of <link.h>
_NOT_STATIC = (0, -1)  # l_tls_offset before and after glibc decided for the vector of blocks
_LONGEST_LIST = 10_000
_RESOLVER_SIZE = 16


class Place(NamedTuple):
    """A module's block: `offset` from the thread pointer in bytes, or else its module id."""

    offset: int | None
    module_id: int | None


class ThreadLocals:
    """Finds the thread-local blocks of one target's modules."""

    def __init__(self, process: Process) -> None:
        """Look in `process`; nothing is read before it is asked for."""
        self._process = process
        self._found: dict[str, Place] = {}

    def place(self, module: Module) -> Place:
        """Return where the block of `module` is; both None where that can't be found out."""
        if module.path not in self._found:
            self._found[module.path] = self._find(module)
        return self._found[module.path]

    def _find(self, module: Module) -> Place:
        if module.program:
            segment = module.elf.tls
            return Place(program_offset(segment) if segment else None, None)
        own = self._from_slots(module, [module])
        if own.offset is not None:
            return own
        listed = self._from_link_map(module)
        others = Place(None, None)
        if listed == others:
            others = self._from_slots(module, self._process.modules)
        return Place(
            listed.offset if listed.offset is not None else others.offset,
            own.module_id or listed.module_id or others.module_id,
        )

    def _from_slots(self, module: Module, users: Iterable[Module]) -> Place:
        """Deduce the place from slots that the dynamic linker filled for `module`'s variables."""
        offset = module_id = None
        for user in users:
            for relocation, value in self._references(user, module):
                slot = user.bias + relocation.offset
                if relocation.type == r.R_X86_64_DTPMOD64:
                    module_id = module_id or word(self._process, slot) or None
                elif offset is None:
                    offset = self._offset_in(slot, relocation.type, value)
        return Place(offset, module_id)

    def _offset_in(self, slot: int, type_: int, value: int) -> int | None:
        """Return the offset of the block whose variable at `value` the `slot` refers to."""
        if type_ == r.R_X86_64_TPOFF64:
            distance = signed(word(self._process, slot))
        elif type_ == r.R_X86_64_TLSDESC:
            resolver = word(self._process, slot)
            try:
                code = self._process.read(resolver, _RESOLVER_SIZE)
            except OSError:
                return None
            if not is_static_tls_resolver(code):
                return None
            distance = signed(word(self._process, slot + 8))
        else:
            return None
        offset = distance - value
        return offset if -(1 << 31) < offset < 0 else None

    def _references(self, user: Module, module: Module) -> Iterator[tuple[Relocation, int]]:
        """Return the TLS relocations of `user` to `module`, each with the offset in its block."""
        for relocation in user.elf.relocations:
            if relocation.type not in r.TLS_TYPES:
                continue
            addend = relocation.addend or 0
            if not relocation.symbol_index:
                if user is module:
                    yield relocation, addend
                continue
            name = user.elf.dynamic_symbols[relocation.symbol_index].name
            first = self._first_exporter(name)
            if first is module:
                symbol = exported(module, name)
                if symbol:
                    yield relocation, symbol.value + addend

    def _first_exporter(self, name: str) -> Module | None:
        return next((m for m in self._process.modules if exported(m, name)), None)

    def _from_link_map(self, module: Module) -> Place:
        """Read glibc's own record of `module`, described by symbols of its own."""
        try:
            entry = self._link_map_entry(module)
        except OSError:  # a dynamic linker without such a list, or one that was overwritten
            return Place(None, None)
        if not entry:
            return Place(None, None)
        offset = self._field(entry, "_thread_db_link_map_l_tls_offset")
        module_id = self._field(entry, "_thread_db_link_map_l_tls_modid")
        if offset is not None:
            offset = None if signed(offset) in _NOT_STATIC else -offset
        return Place(offset, module_id or None)

    def _field(self, entry: int, descriptor: str) -> int | None:
        for module in self._process.modules:
            symbol = exported(module, descriptor)
            if symbol:
                raw = module.elf.read(symbol.value, _DESCRIPTOR.size)
                bits, _, offset = _DESCRIPTOR.unpack(raw)
                return word(self._process, entry + offset) if bits == 64 else None
        return None

    def _link_map_entry(self, module: Module) -> int:
        """Return the address of the `struct link_map` of `module`, 0 if there is none."""
        dynamic = _segment(module, c.PT_DYNAMIC)
        if dynamic is None:
            return 0
        entry = self._first_link_map()
        for _ in range(_LONGEST_LIST):
            if not entry:
                break
            raw = self._process.read(entry, _LINK_MAP.size)
            _, _, l_ld, following = _LINK_MAP.unpack(raw)
            if l_ld == module.bias + dynamic.vaddr:
                return entry
            entry = following
        return 0

    def _first_link_map(self) -> int:
        for module in self._process.modules:
            dynamic = _segment(module, c.PT_DYNAMIC)
            if not module.program or dynamic is None:
                continue
            for address in range(dynamic.vaddr, dynamic.vaddr + dynamic.filesz, 16):
                if word(self._process, module.bias + address) == c.DT_DEBUG:
                    debug = word(self._process, module.bias + address + 8)
                    return word(self._process, debug + 8) if debug else 0
        return 0


def program_offset(segment: Segment) -> int:
    """Return the offset of the program's block from the thread pointer, from its PT_TLS.

    The block ends at the thread pointer or a little before it, so that it starts with the
    alignment of its address in the file (glibc: elf/dl-tls.c, _dl_determine_tlsoffset).
    """
    align = max(segment.align, 1)
    return -(segment.memsz + (-segment.vaddr - segment.memsz) % align)


def _segment(module: Module, kind: int) -> Segment | None:
    return next((s for s in module.elf.segments if s.type == kind), None)

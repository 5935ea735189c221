# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF files that are mapped in a process, with their load bias.

Which they are is read from /proc/PID/maps; in which order the dynamic linker searches them, from
its own list, `struct r_debug` (<link.h>), which DT_DEBUG of the program points to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from hotpatch.elf.constants import DT_DEBUG, PT_DYNAMIC, PT_LOAD
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.linux import procfs

_PAGE = 4096
_LONGEST_LINK_MAP = 10_000


class Module:
    """One mapped ELF file; run-time address = `bias` + st_value."""

    __slots__ = ("bias", "elf", "end", "mappings", "path", "program", "start")

    def __init__(
        self, path: str, bias: int, mappings: list[procfs.Mapping], elf: ElfFile, program: bool
    ) -> None:
        """Describe a file by its path, its load bias and the mappings that belong to it."""
        self.path = path
        self.bias = bias
        self.mappings = mappings
        self.elf = elf
        self.program = program
        self.start = mappings[0].start
        self.end = max(
            mappings[-1].end,
            max((bias + s.vaddr + s.memsz for s in elf.segments if s.type == PT_LOAD), default=0),
        )

    @property
    def name(self) -> str:
        """Return the last part of the path, without the mark of a deleted file."""
        return self.path.removesuffix(" (deleted)").rpartition("/")[2]

    def debug_file(self) -> ElfFile | None:
        """Return its separate debug file, None where there is none that can be read."""
        from hotpatch.elf.debuglink import find_debug_file  # noqa: PLC0415 - seldom needed

        try:
            path = find_debug_file(self.path.removesuffix(" (deleted)"), self.elf)
            return ElfFile.open(path) if path else None
        except (OSError, ElfError):
            return None

    def __repr__(self) -> str:
        return f"<Module {self.path} at {self.start:#x}>"


def find_modules(
    pid: int, mappings: Iterable[procfs.Mapping], read: Callable[[int, int], bytes]
) -> tuple[Module, ...]:
    """Return the program first, then the libraries in the order in which they are searched.

    A file that is no ELF file, or can't be opened any more, is left out.
    """
    files: dict[tuple[int, str], list[procfs.Mapping]] = {}
    for mapping in mappings:
        if mapping.path.startswith("/") and mapping.inode:
            files.setdefault((mapping.inode, mapping.path), []).append(mapping)
    program = procfs.program_inode(pid)
    found = []
    for (inode, path), group in files.items():
        if not any("x" in mapping.protection for mapping in group):
            continue
        elf = _open(pid, group)
        if elf is not None and (bias := _bias(elf, group)) is not None:
            found.append(Module(path, bias, group, elf, inode == program))
    found.sort(key=lambda module: not module.program)
    return tuple(_in_search_order(found, read))


def find_vdso(
    mappings: Iterable[procfs.Mapping], read: Callable[[int, int], bytes]
) -> Module | None:
    """Return the kernel's shared object, which is in memory only; None where there is none."""
    mapping = next((m for m in mappings if m.path == "[vdso]"), None)
    if mapping is None:
        return None
    try:
        elf = ElfFile.from_bytes(read(mapping.start, mapping.end - mapping.start), mapping.path)
        lowest = min((s.vaddr for s in elf.segments if s.type == PT_LOAD), default=0)
    except ElfError:
        return None
    return Module(mapping.path, mapping.start - lowest, [mapping], elf, False)


def _open(pid: int, group: list[procfs.Mapping]) -> ElfFile | None:
    for path in procfs.open_paths(pid, group[0]):
        try:
            return ElfFile.open(path)
        except OSError:
            continue
        except ElfError:
            return None
    return None


def _bias(elf: ElfFile, group: list[procfs.Mapping]) -> int | None:
    """Return by how much a file was moved: the dynamic linker keeps segments' distances."""
    for mapping in group:
        for segment in elf.segments:
            if segment.type != PT_LOAD:
                continue
            if segment.offset & -_PAGE <= mapping.offset < segment.offset + segment.filesz:
                return mapping.start - (segment.vaddr - segment.offset + mapping.offset)
    return None


def _in_search_order(modules: list[Module], read: Callable[[int, int], bytes]) -> Iterable[Module]:
    if not modules or not modules[0].program:
        return modules
    order = {module.start: position for position, module in enumerate(modules)}
    for position, dynamic in enumerate(_link_map(modules[0], read)):
        for module in modules[1:]:
            if module.start <= dynamic < module.end:
                order[module.start] = position - len(modules) - _LONGEST_LINK_MAP
    order[modules[0].start] = -2 * _LONGEST_LINK_MAP - len(modules)
    return sorted(modules, key=lambda module: order[module.start])


def _link_map(program: Module, read: Callable[[int, int], bytes]) -> list[int]:
    """Return the address of each loaded object's dynamic section, in search order."""
    segment = next((s for s in program.elf.segments if s.type == PT_DYNAMIC), None)
    if segment is None:
        return []
    found: list[int] = []
    try:
        live = read(program.bias + segment.vaddr, segment.filesz & -16)
        debug = next(
            (value for tag, value in struct.iter_unpack("<qQ", live) if tag == DT_DEBUG), 0
        )
        entry = struct.unpack("<Q", read(debug + 8, 8))[0] if debug else 0
        while entry and len(found) < _LONGEST_LINK_MAP:
            _, _, dynamic, entry = struct.unpack("<QQQQ", read(entry, 32))
            found.append(dynamic)
    except (OSError, struct.error):  # not a dynamic linker of this kind: the map's order stays
        pass
    return found

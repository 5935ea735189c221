# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames in terms of the program's source: function, file and line, and what was inlined there."""

from __future__ import annotations

from typing import NamedTuple

from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.lines import Position, SourceLines
from hotpatch.elf.file import ElfError
from hotpatch.errors import Gone
from hotpatch.link.scope import symbol_tables
from hotpatch.process.image import Process, Symbolic
from hotpatch.quiescence.unwind import Frame


class Place(NamedTuple):
    """Where a frame is, as well as symbols and debug information tell.

    `function` and `module` are "" where they aren't known, `offset` is that into the function;
    `file` is "" and `line` 0 where those aren't. `inlined` are the functions whose copies in
    `function` the frame is in, innermost first; their positions are those of the code in them, and
    `file` and `line` is where the last one was called.
    """

    pc: int
    function: str
    offset: int
    module: str
    file: str
    line: int
    inlined: tuple[Position, ...]

    def __str__(self) -> str:
        """Return it as `function+0x12 (module) at file.c:3`."""
        name = f"{self.function}+{self.offset:#x}" if self.function else f"{self.pc:#x}"
        module = f" ({self.module})" if self.module else ""
        copies = "".join(f"{p.function or '?'}{_at(p.file, p.line)} in " for p in self.inlined)
        return f"{copies}{name}{module}{_at(self.file, self.line)}"


def _at(file: str, line: int) -> str:
    return f" at {file.rpartition('/')[2]}:{line}" if file and line else ""


class Places:
    """Looks frames of one process up; each file is opened once."""

    def __init__(self, process: Process) -> None:
        """Look at the modules of `process`, as its memory map was when it was read."""
        self._process = process
        self._sources: dict[int, SourceLines] = {}

    def of(self, frame: Frame) -> Place:
        """Return where a frame is; raises Gone."""
        pc = frame.pc - frame.call
        *inlined, whole = self._positions(pc) or (Position("", "", 0, False),)
        unknown = Place(frame.pc, "", 0, "", whole.file, whole.line, tuple(inlined))
        try:
            symbolic = self._process.symbolic(pc)
        except (ElfError, OSError) as error:
            if isinstance(error, Gone):
                raise
            return unknown
        if symbolic is None:
            return unknown
        if symbolic.function.startswith("0x"):  # only the module is known
            named = self._in_debug_file(pc)
            if named is None:
                return unknown._replace(module=symbolic.module)
            symbolic = named
        return unknown._replace(
            function=symbolic.function,
            offset=symbolic.offset + frame.call,
            module=symbolic.module,
        )

    def _in_debug_file(self, pc: int) -> Symbolic | None:
        """Return the function that only the separate debug file of a module names."""
        module = self._process.code_at(pc)
        if module is None:
            return None
        try:
            for table in symbol_tables(module)[1:]:
                symbol = table.at(pc - module.bias)
                if symbol is not None:
                    return Symbolic(module.name, symbol.name, pc - module.bias - symbol.value)
        except (ElfError, OSError):
            pass
        return None

    def _positions(self, pc: int) -> tuple[Position, ...]:
        module = self._process.code_at(pc)
        if module is None:
            return ()
        sources = self._sources.get(module.start)
        if sources is None:
            sources = SourceLines.of_file(module.elf, module.debug_file)
            self._sources[module.start] = sources
        try:
            return sources.at(pc - module.bias)
        except (DwarfError, ElfError):
            return ()

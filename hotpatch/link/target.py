# SPDX-License-Identifier: GPL-2.0-or-later
"""What linking needs of a target: its modules, and its memory to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hotpatch.elf import constants as c

if TYPE_CHECKING:
    from hotpatch.elf.file import ElfFile
    from hotpatch.elf.symbols import Symbol


class Module(Protocol):
    """One ELF file that is mapped in the target; see `hotpatch.process.modules`."""

    path: str
    bias: int
    elf: ElfFile
    program: bool


class Process(Protocol):
    """A target; see `hotpatch.process.image`."""

    @property
    def modules(self) -> Sequence[Module]:
        """Return the program, then the libraries in the order in which they are searched."""

    def read(self, address: int, size: int) -> bytes:
        """Return memory of the target; raises OSError where it isn't mapped."""


class Definition(NamedTuple):
    """A symbol where the target defines it."""

    module: Module
    symbol: Symbol

    @property
    def address(self) -> int:
        """Return where it lies in the target; an absolute symbol is not moved with its module."""
        absolute = self.symbol.section == c.SHN_ABS
        return self.symbol.value + (0 if absolute else self.module.bias)


def word(process: Process, address: int) -> int:
    """Return the 64-bit word at an address of the target; raises OSError."""
    return int.from_bytes(process.read(address, 8), "little")


def signed(value: int) -> int:
    """Return a 64-bit word as a signed number."""
    return value - (value >> 63 << 64)

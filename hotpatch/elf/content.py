# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of a file, and the one way to look at them.

Every number in a file may be wrong. So nothing in this package indexes the bytes by itself:
it asks `Content`, which hands out what lies in the file and raises `ElfError` for the rest. A size
that was checked here also bounds every loop and every list that is made of it.
"""

from __future__ import annotations

from mmap import mmap
from struct import Struct
from typing import Any


class ElfError(ValueError):
    """The file is damaged, or of a kind that can't be read; says what is wrong, and where."""

    def __init__(self, what: str, offset: int | None = None, name: str = "") -> None:
        """Keep `what` is wrong, the file `offset` of it in bytes, and the `name` of the file."""
        self.what = what
        self.offset = offset
        self.name = name
        where = "" if offset is None else f" (at file offset {offset:#x})"
        super().__init__(f"{name}: {what}{where}" if name else f"{what}{where}")


class Content:
    """A file's bytes, with its name for messages."""

    __slots__ = ("data", "name")

    def __init__(self, data: bytes | mmap, name: str) -> None:
        """Wrap `data`, which stays the caller's to close."""
        self.data = data
        self.name = name

    def __len__(self) -> int:
        return len(self.data)

    def error(self, what: str, offset: int | None = None) -> ElfError:
        """Return the error that says `what` is wrong at `offset` of this file."""
        return ElfError(what, offset, self.name)

    def take(self, offset: int, size: int, what: str) -> bytes:
        """Return a copy of `size` bytes at `offset`; `what` names them in the ElfError."""
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self.error(
                f"{what} of {size} bytes reaches beyond the file's {len(self.data)}", offset
            )
        return self.data[offset : offset + size]

    def unpack(self, layout: Struct, offset: int, what: str) -> tuple[Any, ...]:
        """Return the fields of one `layout` at `offset`."""
        return layout.unpack(self.take(offset, layout.size, what))

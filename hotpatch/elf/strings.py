# SPDX-License-Identifier: GPL-2.0-or-later
"""String tables: names by offset, one or many at once, and offsets by name.

Linkers store a string that is the tail of another only once (`open` inside `fopen`), so a name
may begin anywhere, not just behind a NUL: look-ups here search for the name and its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice

from hotpatch.elf.content import Content

# No linker writes names of that size, while a damaged table may be one name without end.
LONGEST_NAME = 1 << 20
# Names that overlap may add up to more than the file; this many times its size is damage.
LARGEST_TOTAL = 8
_BATCH = 1024


class StringTable:
    """A section of NUL-terminated strings (gABI, "String Table")."""

    def __init__(self, content: Content, offset: int, size: int) -> None:
        """Read the table of `size` bytes at file `offset`; ElfError if it is not in the file."""
        self._content = content
        self._offset = offset
        self._data = content.take(offset, size, "string table")
        self._text = ""

    def __contains__(self, needle: bytes) -> bool:
        return needle in self._data

    def get(self, offset: int) -> str:
        """Return the string at `offset` of the table; bytes not UTF-8 are surrogate-escaped."""
        end = self._data.find(b"\0", offset, offset + LONGEST_NAME)
        if end < 0:
            raise self._endless(offset)
        return self._data[offset:end].decode("utf-8", "surrogateescape")

    def many(self, offsets: Iterable[int]) -> list[str]:
        """Return the strings at all `offsets`: `get` in bulk."""
        # One character a byte, so that offsets stay what they are.
        text = self._text = self._text or self._data.decode("latin-1")
        names: list[str] = []
        budget = LARGEST_TOTAL * len(self._content)
        source = iter(offsets)
        while batch := list(islice(source, _BATCH)):
            ends = self._ends(text, batch)
            budget -= sum(ends) - sum(batch)
            if budget < 0:
                raise self._content.error("names overlap without end", self._offset)
            names += map(text.__getitem__, map(slice, batch, ends))
        return names if self._data.isascii() else [_utf8(name) for name in names]

    def _ends(self, text: str, starts: Sequence[int]) -> list[int]:
        find = text.find
        ends = [find("\0", start, start + LONGEST_NAME) for start in starts]
        if -1 in ends:
            raise self._endless(starts[ends.index(-1)])
        return ends

    def find(self, needle: bytes) -> list[int]:
        """Return every offset at which `needle` stands; end it with NUL to find whole tails."""
        offsets = []
        offset = self._data.find(needle)
        while offset >= 0:
            offsets.append(offset)
            offset = self._data.find(needle, offset + 1)
        return offsets

    def find_before(self, needle: bytes, rest: re.Pattern[bytes]) -> list[int]:
        """Return every offset at which `needle` stands, and a match of `rest` behind it."""
        data, size = self._data, len(needle)
        return [offset for offset in self.find(needle) if rest.match(data, offset + size)]

    def start(self, offset: int) -> int:
        """Return where the longest string begins that has the byte at `offset`."""
        return self._data.rfind(b"\0", max(0, offset - LONGEST_NAME), offset) + 1

    def _endless(self, offset: int) -> Exception:
        what = "name without an end" if offset < len(self._data) else "name outside its table"
        return self._content.error(what, self._offset + offset)


def encode(name: str) -> bytes:
    """Return the bytes that `name` has in a string table."""
    return name.encode("utf-8", "surrogateescape")


def _utf8(name: str) -> str:
    return name if name.isascii() else name.encode("latin-1").decode("utf-8", "surrogateescape")

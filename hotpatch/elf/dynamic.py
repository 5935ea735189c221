# SPDX-License-Identifier: GPL-2.0-or-later
"""What PT_DYNAMIC says: libraries, the dynamic symbol table, its versions.

The loader uses only this, so every dynamically linked file has it, section headers or not. Its
one gap: nothing in it says how many symbols there are. The hash tables tell it (gABI, "Hash
Table": nchain; for DT_GNU_HASH the end of the last chain).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from hotpatch.elf import constants as c
from hotpatch.elf.bulk import column
from hotpatch.elf.columns import SYM, Columns
from hotpatch.elf.header import Segment
from hotpatch.elf.image import Image
from hotpatch.elf.strings import StringTable
from hotpatch.elf.symtab import SymbolSection
from hotpatch.elf.versions import Versions, defined_names, needed_names

_DYN = Struct("<QQ")
_HASH = Struct("<II")  # nbucket, nchain
_GNU_HASH = Struct("<IIII")  # nbuckets, symoffset, bloom_size, bloom_shift
_WORD = Struct("<I")


def read_dynamic(image: Image, segment: Segment) -> dict[int, list[int]]:
    """Return the values of every tag in the PT_DYNAMIC `segment`, up to DT_NULL."""
    size = segment.filesz // _DYN.size * _DYN.size
    table = image.content.take(segment.offset, size, "dynamic section")
    dynamic: dict[int, list[int]] = {}
    for tag, value in _DYN.iter_unpack(table):
        if tag == c.DT_NULL:
            break
        dynamic.setdefault(tag, []).append(value)
    return dynamic


class Dynamic:
    """The dynamic section of one file, with what it points to."""

    def __init__(self, image: Image, entries: dict[int, list[int]]) -> None:
        """Take the `entries` of the dynamic section, and the `image` that they point into."""
        self.image = image
        self.entries = entries

    def value(self, tag: int, default: int = 0) -> int:
        """Return the last value of `tag`, which is the one that the loader uses."""
        return self.entries[tag][-1] if tag in self.entries else default

    def offset(self, tag: int, size: int, what: str) -> int:
        """Return the file offset of the `size` bytes that `tag` points to."""
        return self.image.offset(self.value(tag), size, what)

    def strings(self) -> StringTable:
        """Return the DT_STRTAB."""
        size = self.value(c.DT_STRSZ)
        return StringTable(self.image.content, self.offset(c.DT_STRTAB, size, "DT_STRTAB"), size)

    def symbols(self, listed: int, used: Callable[[], int], strings: StringTable) -> SymbolSection:
        """Return the DT_SYMTAB.

        `listed` is the number of its rows if the section headers tell it, else 0. If no hash table
        tells it either, `used` is asked how many relocations refer to.
        """
        count = listed or self._count() or used()
        offset = self.offset(c.DT_SYMTAB, count * SYM.size, "DT_SYMTAB")
        columns = Columns(self.image.content, offset, count)
        return SymbolSection(columns, strings, self._versions(count, strings))

    def _count(self) -> int:
        """Return the number of symbols that a hash table tells; 0 if none does."""
        if c.DT_HASH in self.entries:
            offset = self.offset(c.DT_HASH, _HASH.size, "DT_HASH")
            return int(self.image.content.unpack(_HASH, offset, "DT_HASH")[1])
        return self._gnu_count() if c.DT_GNU_HASH in self.entries else 0

    def _gnu_count(self) -> int:
        """Return the end of the last chain; 0 if nothing is defined, which leaves the rest open."""
        start, content = self.value(c.DT_GNU_HASH), self.image.content
        offset = self.offset(c.DT_GNU_HASH, _GNU_HASH.size, "DT_GNU_HASH")
        first: int
        buckets, first, bloom, _ = content.unpack(_GNU_HASH, offset, "DT_GNU_HASH")
        at = start + _GNU_HASH.size + 8 * bloom
        table = content.take(
            self.image.offset(at, 4 * buckets, "DT_GNU_HASH buckets"), 4 * buckets, "buckets"
        )
        last = max((bucket for (bucket,) in _WORD.iter_unpack(table)), default=0)
        if last < first:
            return 0
        return last + self._chain(at + 4 * (buckets + last - first))

    def _chain(self, vaddr: int) -> int:
        """Return the length of the hash chain at `vaddr`; its last word has the lowest bit set."""
        size = self.image.backed(vaddr) // 4 * 4
        offset = self.image.offset(vaddr, size, "DT_GNU_HASH chain")
        chain = self.image.content.take(offset, size, "DT_GNU_HASH chain")
        for length, (word,) in enumerate(_WORD.iter_unpack(chain), 1):
            if word & 1:
                return length
        raise self.image.content.error("DT_GNU_HASH chain without an end", offset)

    def _versions(self, count: int, strings: StringTable) -> Versions | None:
        if c.DT_VERSYM not in self.entries:
            return None
        content, names = self.image.content, {}
        for tag, many, read in (
            (c.DT_VERNEED, c.DT_VERNEEDNUM, needed_names),
            (c.DT_VERDEF, c.DT_VERDEFNUM, defined_names),
        ):
            if tag in self.entries:
                names.update(
                    read(content, self.offset(tag, 1, "versions"), self.value(many), strings)
                )
        raw = content.take(self.offset(c.DT_VERSYM, 2 * count, "DT_VERSYM"), 2 * count, "DT_VERSYM")
        return Versions(column(raw, "H"), names)

# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbols of one table, made of its columns, its strings and its versions.

Linkers write versions into the names of `.symtab` (`read@GLIBC_2.2.5`, `read@@GLIBC_2.2.5`): here
they are taken off, so that it and `.dynsym` speak of the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from itertools import chain, compress, repeat
from typing import NamedTuple

from hotpatch.elf import bulk
from hotpatch.elf import constants as c
from hotpatch.elf.columns import Columns
from hotpatch.elf.strings import StringTable, encode
from hotpatch.elf.versions import Versions


class Symbol(NamedTuple):
    """Elf64_Sym, made readable.

    `value` is a virtual address without load bias (an offset in the TLS block for STT_TLS),
    `section` the SHN_* index after SHN_XINDEX was resolved (only object files have so many that
    it could be taken for SHN_ABS), `file` the STT_FILE of a local symbol.
    `default_version` tells that a reference without version binds to this definition.
    """

    name: str
    value: int
    size: int
    type: int
    bind: int
    visibility: int
    section: int
    file: str | None
    version: str | None
    default_version: bool


class SymbolSection:
    """One SHT_SYMTAB or SHT_DYNSYM with its strings, and versions where it has them."""

    def __init__(
        self, columns: Columns, strings: StringTable, versions: Versions | None = None
    ) -> None:
        """Join what was found in the file."""
        self.columns = columns
        self.strings = strings
        self.versions = versions

    def __getitem__(self, row: int) -> Symbol:
        offset, info, other, section, value, size = self.columns.row(row)
        name, version, default = self.strings.get(offset), None, section != c.SHN_UNDEF
        if self.versions:
            version = self.versions.version(row)
            default = default and not self.versions.hidden(row)
        elif "@" in name and info >> 4 != c.STB_LOCAL:
            name, version, default = _split(name, default)
        file = None
        if info >> 4 == c.STB_LOCAL and info & 0xF != c.STT_FILE:
            file = self._file(row)
        return Symbol(
            name, value, size, info & 0xF, info >> 4, other & 3, section, file, version, default
        )

    def _file(self, row: int) -> str | None:
        group = self.columns.file_group(row)
        return self.files[group] if group >= 0 else None

    @cached_property
    def files(self) -> list[str | None]:
        """The names of `columns.file_rows`; None for the nameless one of the linker itself."""
        offsets = self.columns.name_offsets
        names = self.strings.many(offsets[row] for row in self.columns.file_rows)
        return [name or None for name in names]

    def rows_named(self, name: str) -> list[int]:
        """Return the rows of that name, with any version."""
        if not name or "\0" in name:
            return []
        key = encode(name)
        offsets = self.strings.find(key + b"\0")
        if not self.versions:
            offsets += self.strings.find(key + b"@")
        return [row for row in self.columns.named(offsets) if self[row].name == name]

    def rows_beginning(self, plain: bytes, rest: re.Pattern[bytes]) -> list[int]:
        """Return the rows whose whole name, with its NUL, is `plain` and a match of `rest`."""
        return self.columns.named(self.strings.find_before(plain, rest))

    def rows_ending(self, plain: bytes, rest: re.Pattern[bytes]) -> list[int]:
        """Return the rows whose name ends with such, behind something else."""
        ends = self.strings.find_before(plain, rest)
        return self.columns.named_within([(self.strings.start(end), end) for end in ends])

    def select(self, mask: Iterable[object]) -> list[Symbol]:
        """Return the symbols of the rows where `mask` is true: `self[row]` in bulk."""
        columns, mask = self.columns, list(mask)
        names = self.strings.many(compress(columns.name_offsets, mask))
        sections = list(compress(columns.sections, mask))
        binds = bytes(compress(columns.binds, mask))
        versions, defaults = self._versions(mask, sections)
        if not self.versions and b"@" in self.strings:
            names, versions, defaults = _split_all(names, binds, defaults)
        fields = zip(
            names,
            compress(columns.values, mask),
            compress(columns.sizes, mask),
            compress(columns.types, mask),
            binds,
            compress(columns.visibilities, mask),
            sections,
            compress(self._file_column, mask),
            versions,
            defaults,
            strict=True,
        )
        return bulk.rows(Symbol, fields)

    def _versions(
        self, mask: list[object], sections: list[int]
    ) -> tuple[list[str | None], list[bool]]:
        defaults = [section != c.SHN_UNDEF for section in sections]
        if not self.versions:
            return [None] * len(sections), defaults
        versions, hidden = self.versions.columns()
        hidden = list(compress(hidden, mask))
        return list(compress(versions, mask)), [
            d and not h for d, h in zip(defaults, hidden, strict=True)
        ]

    @property
    def _file_column(self) -> list[str | None]:
        columns = self.columns
        starts = columns.file_rows
        if not starts:
            return [None] * columns.count
        ends = [*starts[1:], columns.count]
        lengths = (end - start for start, end in zip(starts, ends, strict=True))
        files = chain(repeat(None, starts[0]), *map(repeat, self.files, lengths))
        kinds = zip(files, columns.binds, columns.types, strict=True)
        local, marker = c.STB_LOCAL, c.STT_FILE
        return [f if bind == local and type_ != marker else None for f, bind, type_ in kinds]


def _split(name: str, defined: bool) -> tuple[str, str | None, bool]:
    """Take `name@version` or `name@@version` of .symtab apart."""
    plain, at, version = name.partition("@")
    if not at or not plain:
        return name, None, defined
    return plain, version.lstrip("@") or None, defined and version.startswith("@")


def _split_all(
    names: list[str], binds: bytes, defaults: list[bool]
) -> tuple[list[str], list[str | None], list[bool]]:
    split = [
        _split(name, default) if bind and "@" in name else (name, None, default)
        for name, bind, default in zip(names, binds, defaults, strict=True)
    ]
    return [s[0] for s in split], [s[1] for s in split], [s[2] for s in split]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest of a built patch: the records that hotpatch.h would leave (patch/manifest.py)."""

from __future__ import annotations

from hotpatch.arch.relocations import R_X86_64_64
from hotpatch.build.relocatable import Sec, Sym
from hotpatch.elf import constants as c
from hotpatch.patch import manifest


class Records:
    """The section of records, and its strings."""

    def __init__(self) -> None:
        """Start with none."""
        flags = c.SHF_ALLOC | c.SHF_WRITE
        self.section = Sec(manifest.SECTION, c.SHT_PROGBITS, flags, 8)
        self.strings = Sec(".rodata.hotpatch_records", c.SHT_PROGBITS, c.SHF_ALLOC, 1)
        self._known: dict[str, int] = {}

    def add(
        self, kind: int, name: str | None, extra: str | None = None, code: Sym | None = None
    ) -> None:
        """Add a record; `code` is the function that it is about."""
        at = len(self.section.data)
        self.section.data += manifest.pack_record(kind)
        for offset, text in ((manifest.NAME_FIELD, name), (manifest.EXTRA_FIELD, extra)):
            if text is not None:
                entry = (at + offset, R_X86_64_64, self.strings.symbol, self._text(text))
                self.section.relocations.append(entry)
        if code:
            address = (at + manifest.ADDRESS_FIELD, R_X86_64_64, code, 0)
            self.section.relocations.append(address)

    def _text(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = len(self.strings.data)
            self.strings.data += text.encode() + b"\0"
        return self._known[text]

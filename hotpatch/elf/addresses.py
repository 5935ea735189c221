# SPDX-License-Identifier: GPL-2.0-or-later
"""Which symbol covers an address.

The smallest symbol with a size that holds the address wins: an entry point inside a larger
function is the better answer. A label without a size (assembler sources) reaches to the next
symbol of its section. Among aliases, typed ones go before labels, exported ones before local ones,
what programs are linked with today (`free`) before what only old ones ask for
(`cfree@GLIBC_2.2.5`), and the name that people use (`write`) before the reserved one (`__write`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from operator import add

from hotpatch.elf import constants as c
from hotpatch.elf.columns import Columns

_COVERING = frozenset((c.STT_NOTYPE, c.STT_OBJECT, c.STT_FUNC, c.STT_GNU_IFUNC))


class AddressIndex:
    """The defined symbols of one table in the order of their addresses."""

    def __init__(self, columns: Columns, section_end: Callable[[int, int], int]) -> None:
        """Sort the table; `section_end(section, address)` bounds labels without a size."""
        self._columns = columns
        self._section_end = section_end
        types, sections, values = columns.types, columns.sections, columns.values
        not_code = (c.SHN_UNDEF, c.SHN_ABS, c.SHN_COMMON)
        rows = [
            row
            for row in range(columns.count)
            if types[row] in _COVERING and sections[row] not in not_code
        ]
        rows.sort(key=values.__getitem__)
        self._rows = rows
        self._starts = [values[row] for row in rows]
        sizes = map(columns.sizes.__getitem__, rows)
        # The furthest end so far tells when no earlier symbol can reach the address.
        self._reach = list(accumulate(map(add, self._starts, sizes), max))

    def covering(self, address: int) -> list[int]:
        """Return the rows of the best (smallest) size that cover `address`: one and its aliases."""
        last = bisect_right(self._starts, address)
        best: list[int] = []
        least = 1 << 65
        values, sizes = self._columns.values, self._columns.sizes
        index = last - 1
        while index >= 0 and self._reach[index] > address:
            row = self._rows[index]
            size = sizes[row]
            if size <= least and values[row] + size > address:
                if size < least:
                    best, least = [], size
                best.append(row)
            index -= 1
        return best or self._labels(last, address)

    def _labels(self, last: int, address: int) -> list[int]:
        """The symbols without a size that start nearest before `address`."""
        found: list[int] = []
        index = last - 1
        while index >= 0 and self._starts[index] == self._starts[last - 1]:
            row = self._rows[index]
            if not self._columns.sizes[row] and self._holds(row, address):
                found.append(row)
            index -= 1
        return found

    def _holds(self, row: int, address: int) -> bool:
        columns = self._columns
        return address < self._section_end(columns.sections[row], columns.values[row])

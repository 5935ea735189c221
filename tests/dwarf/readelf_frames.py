# SPDX-License-Identifier: GPL-2.0-or-later
"""What binutils' readelf makes of call frame information, as values to compare with."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.arch.frames import DWARF_REGISTERS
from hotpatch.dwarf import cfi
from hotpatch.dwarf.cfi import Row

_FDE = re.compile(r"[0-9a-f]{8} \S+ \S+ FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)")
_NAME = re.compile(r" \(\w+\)")  # of another register, behind its number
_ROW = re.compile(r"[0-9a-f]{16} .*")


class Line(NamedTuple):
    """A row of `readelf -wF`: where it begins and ends, and its cells by column."""

    start: int
    end: int
    cells: dict[str, str]


def lines(path: str, section: str = ".eh_frame") -> Iterator[Line]:
    """Yield the rows of all FDEs that readelf prints a table for."""
    # It also complains, in its exit status, about sections that have nothing to do with this.
    output = subprocess.run(["readelf", "-wF", path], check=False, capture_output=True, text=True)
    _, _, text = output.stdout.partition(f"Contents of the {section} section")
    for block in text.partition("Contents of the ")[0].split("\n\n"):
        head, _, table = block.partition("\n")
        match = _FDE.match(head)
        if match and table:
            yield from _rows(int(match[2], 16), table.splitlines())


def _rows(end: int, table: list[str]) -> Iterator[Line]:
    columns = table[0].split()
    rows = [_NAME.sub("", line).split() for line in table[1:] if _ROW.match(line)]
    starts = [int(row[0], 16) for row in rows]
    for row, start, stop in zip(rows, starts, [*starts[1:], end], strict=True):
        yield Line(start, stop, dict(zip(columns[1:], row[1:], strict=True)))


def cells(row: Row, columns: list[str]) -> dict[str, str]:
    """Return a row as readelf prints it, in the columns that it has.

    For readelf, a register that nothing is said of is undefined.
    """
    names = {"ra": row.return_address}
    names.update((name, number) for number, name in enumerate(DWARF_REGISTERS[:16]))
    vectors = (*range(17, 33), *range(67, 83))
    names.update((f"xmm{number}", vector) for number, vector in enumerate(vectors))
    found = {"CFA": _cfa(row)}
    for column in columns:
        if column != "CFA":
            found[column] = _cell(row, names[column])
    return found


def _cfa(row: Row) -> str:
    if row.cfa.expression is not None:
        return "exp"
    return f"{DWARF_REGISTERS[row.cfa.register]}{row.cfa.offset:+d}"


def _cell(row: Row, number: int) -> str:
    rule = row.rules.get(number)
    if rule is None or rule.kind == cfi.UNDEFINED:
        return "u"
    if rule.kind == cfi.OFFSET:
        return f"c{rule.value:+d}"
    if rule.kind == cfi.VAL_OFFSET:
        return f"v{rule.value:+d}"
    if rule.kind == cfi.REGISTER:
        return f"r{rule.value}"
    return {cfi.SAME_VALUE: "s", cfi.EXPRESSION: "exp", cfi.VAL_EXPRESSION: "vexp"}[rule.kind]

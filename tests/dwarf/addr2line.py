# SPDX-License-Identifier: GPL-2.0-or-later
"""What binutils' addr2line and gdb make of code addresses, as values to compare with."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

# What is behind file and line: " (discriminator 2)", or the column that eu-addr2line has.
_REST = re.compile(r"(:\d+)( \(discriminator \d+\)|:\d+)$")


class Place(NamedTuple):
    """A function, and a place in the source; "" and 0 for what isn't known."""

    function: str
    file: str
    line: int


def addr2line(path: str, addresses: Sequence[int], command: str = "addr2line") -> list[list[Place]]:
    """Return for each address the places that addr2line has, innermost first."""
    output = subprocess.run(
        [command, "-a", "-f", "-i", "-e", path],
        input="\n".join(map(hex, addresses)),
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    found: list[list[Place]] = []
    lines = iter(output)
    for line in lines:
        if line.startswith("0x"):
            found.append([])
            continue
        file, _, number = _REST.sub(r"\1", next(lines)).rpartition(":")
        place = Place(
            "" if line == "??" else line,
            "" if file == "??" else os.path.normpath(file),
            0 if number == "?" else int(number),
        )
        found[-1].append(place)
    return found


def gdb_functions(path: str, addresses: Sequence[int]) -> list[list[str]]:
    """Return for each address the functions that gdb finds it in, innermost first."""
    command = ["gdb", "-q", "-nx", "-batch", "-ex", "set debuginfod enabled off"]
    ran = subprocess.run(
        [*command, "-x", os.path.realpath(__file__), path],
        env={**os.environ, "GDB_ADDRESSES": json.dumps(addresses), "LC_ALL": "C"},
        check=True,
        capture_output=True,
        text=True,
    )
    functions: list[list[str]] = json.loads(ran.stdout.splitlines()[-1])
    return functions


def code_of(path: str, step: int) -> list[int]:
    """Return every `step`-th address of .text, by binutils' own reckoning."""
    command = ["readelf", "-S", "-W", path]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (fields,) = (line.split("PROGBITS")[1] for line in output.splitlines() if " .text " in line)
    start, _, size = (int(field, 16) for field in fields.split()[:3])
    return list(range(start, start + size, step))


# ---- inside gdb ----


def _functions(gdb: Any, pc: int) -> list[str]:
    names = []
    block = gdb.block_for_pc(pc)
    # A lambda's block lies in that of the function that it is written in, but not its code.
    while block is not None and block.start <= pc < block.end:
        if block.is_global or block.is_static:
            break
        if block.function is not None:
            names.append(block.function.linkage_name)
        block = block.superblock
    return names


if "GDB_ADDRESSES" in os.environ and __name__ == "__main__":
    import gdb

    print(json.dumps([_functions(gdb, pc) for pc in json.loads(os.environ["GDB_ADDRESSES"])]))

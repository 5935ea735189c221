# SPDX-License-Identifier: GPL-2.0-or-later
"""What binutils' readelf says about a file, as values to compare with."""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

from hotpatch.elf import constants as c

TYPES = {
    "NOTYPE": c.STT_NOTYPE, "OBJECT": c.STT_OBJECT, "FUNC": c.STT_FUNC, "FILE": c.STT_FILE,
    "SECTION": c.STT_SECTION, "COMMON": c.STT_COMMON, "TLS": c.STT_TLS, "IFUNC": c.STT_GNU_IFUNC,
}  # fmt: skip
BINDS = {
    "LOCAL": c.STB_LOCAL, "GLOBAL": c.STB_GLOBAL, "WEAK": c.STB_WEAK, "UNIQUE": c.STB_GNU_UNIQUE,
}  # fmt: skip
VISIBILITIES = {"DEFAULT": 0, "INTERNAL": 1, "HIDDEN": 2, "PROTECTED": 3}
INDICES = {"UND": c.SHN_UNDEF, "ABS": c.SHN_ABS, "COM": c.SHN_COMMON}

_SYMBOL = re.compile(
    r" *\d+: (?P<value>\w+) +(?P<size>\w+) (?P<type>\w+) +(?P<bind>\w+) +(?P<vis>\w+) +"
    r"(?:\[[^]]*\] +)?(?P<index>\w+) ?(?P<name>.*)"
)


class Row(NamedTuple):
    """A line of `readelf -s`; the version is None without one, `default` tells @@ from @."""

    name: str
    value: int
    size: int
    type: int
    bind: int
    visibility: int
    section: int
    version: str | None
    default: bool


def run(path: str, *options: str) -> str:
    """Return the output of `readelf -W`."""
    done = subprocess.run(
        ["readelf", "-W", *options, path], check=True, capture_output=True, text=True
    )
    return done.stdout


def symbols(path: str) -> dict[str, list[Row]]:
    """Return the rows of each symbol table, by its name."""
    tables: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for line in run(path, "-s").splitlines():
        if line.startswith("Symbol table "):
            rows = tables.setdefault(line.split("'")[1], [])
        elif match := _SYMBOL.fullmatch(line):
            rows.append(_row(match))
    return tables


def _row(match: re.Match[str]) -> Row:
    # "(2)": the version is of another library. A definition has one if it is a copy (R_X86_64_COPY)
    # of that library's variable, and references without version bind to the copy.
    name, copied = re.subn(r" \(\d+\)$", "", match["name"])
    index = match["index"]
    plain, at, version = name.partition("@")
    if not at or match["bind"] == "LOCAL":
        plain, version = name, ""
    return Row(
        plain,
        int(match["value"], 16),
        int(match["size"], 0),
        TYPES[match["type"]],
        BINDS[match["bind"]],
        VISIBILITIES[match["vis"]],
        INDICES[index] if index in INDICES else int(index),
        version.lstrip("@") or None,
        index != "UND" and (not version or version.startswith("@") or copied > 0),
    )


def relocations(path: str) -> list[tuple[int, int]]:
    """Return offset and type number of each relocation with addend of `readelf -r`."""
    found = []
    for line in run(path, "-r").splitlines():
        if match := re.match(r"([0-9a-f]{16}) +([0-9a-f]{16}) +R_X86", line):
            found.append((int(match[1], 16), int(match[2], 16)))
    return found


def relative(path: str) -> list[int]:
    """Return the offsets that `readelf -r` lists for DT_RELR."""
    text = run(path, "-r")
    _, header, rest = text.partition("'.relr.dyn'")
    body = re.split(r"\n\n", rest.partition("\n")[2])[0] if header else ""
    return [int(word, 16) for word in re.findall(r"^([0-9a-f]{16})$", body, re.MULTILINE)]


def notes(path: str) -> list[tuple[str, int]]:
    """Return owner and descriptor size of each note of `readelf -n`."""
    found = re.findall(r"^  (\S+) +0x([0-9a-f]{8})\t", run(path, "-n"), re.MULTILINE)
    return [(owner, int(size, 16)) for owner, size in found]


def build_id(path: str) -> str | None:
    """Return the build-id in hex."""
    found = re.search(r"Build ID: (\w+)", run(path, "-n"))
    return found[1] if found else None


def dynamic(path: str) -> list[tuple[int, str]]:
    """Return tag and text of each dynamic entry of `readelf -d`."""
    found = re.findall(r"^ (0x[0-9a-f]{16}) \((?:\S+)\) +(.*)$", run(path, "-d"), re.MULTILINE)
    return [(int(tag, 16), text.strip()) for tag, text in found]


def segments(path: str) -> list[tuple[int, ...]]:
    """Return offset, vaddr, filesz, memsz and align of each program header of `readelf -l`."""
    line = r"^  \S+ +(0x\w+) (0x\w+) 0x\w+ (0x\w+) (0x\w+) .{3} +(0x\w+|0)$"
    return [
        tuple(int(word, 0) for word in row)
        for row in re.findall(line, run(path, "-l"), re.MULTILINE)
    ]

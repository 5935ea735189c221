# SPDX-License-Identifier: GPL-2.0-or-later
"""Separate debug files: where the symbols of a stripped program are.

They are looked for as gdb does (its manual, "Separate Debug Files"): by build-id below
/usr/lib/debug/.build-id, then by the name in .gnu_debuglink beside the program, in .debug/ beside
it and under /usr/lib/debug, where the CRC must fit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from hotpatch.elf.file import ElfError, ElfFile

DEBUG_DIRECTORY = "/usr/lib/debug"


def find_debug_file(path: str, elf: ElfFile, root: str = "/") -> str | None:
    """Return the path of the debug file of `elf`, or None.

    `path` is where the program lies as its process sees it; `root` is the root directory of that
    process (`/proc/PID/root`), and the path returned begins with it. Raises ElfError where
    `elf` itself is damaged.
    """
    for candidate in _by_build_id(elf, root):
        if _has_build_id(candidate, elf.build_id):
            return candidate
    return _by_link(path, elf, root)


def read_debuglink(elf: ElfFile) -> tuple[str, int] | None:
    """Return the file name and CRC-32 in .gnu_debuglink; None without that section."""
    section = elf.section(".gnu_debuglink")
    if section is None:
        return None
    data = elf.section_data(section)
    name, _, _ = data.partition(b"\0")
    at = (len(name) + 4) & ~3
    if not name or b"/" in name or len(data) < at + 4:
        raise ElfError(".gnu_debuglink holds no file name and CRC", section.offset, elf.name)
    return os.fsdecode(name), int.from_bytes(data[at : at + 4], "little")


def _by_build_id(elf: ElfFile, root: str) -> Iterator[str]:
    if elf.build_id and len(elf.build_id) > 1:
        digits = elf.build_id.hex()
        name = f"{DEBUG_DIRECTORY}/.build-id/{digits[:2]}/{digits[2:]}.debug"
        yield _below(root, name)


def _has_build_id(path: str, wanted: bytes | None) -> bool:
    try:
        elf = ElfFile.open(path)
        found = elf.build_id
        elf.close()
    except (OSError, ElfError):
        return False
    return found == wanted


def _by_link(path: str, elf: ElfFile, root: str) -> str | None:
    link = read_debuglink(elf)
    if link is None:
        return None
    name, crc = link
    directory = os.path.dirname(path)
    for place in (directory, f"{directory}/.debug", f"{DEBUG_DIRECTORY}/{directory}"):
        candidate = _below(root, f"{place}/{name}")
        if _crc(candidate) == crc:
            return candidate
    return None


def _below(root: str, path: str) -> str:
    return os.path.normpath(f"{root}/{path}")


def _crc(path: str) -> int | None:
    import zlib  # noqa: PLC0415 - only stripped programs need it

    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        crc = 0 if stat.S_ISREG(os.fstat(fd).st_mode) else None
        while crc is not None and (block := os.read(fd, 1 << 20)):
            crc = zlib.crc32(block, crc)
        return crc
    except OSError:
        return None
    finally:
        os.close(fd)

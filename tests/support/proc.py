# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says about a process, for tests that look for leaks and traces (see proc(5))."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Mapping(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str  # such as "r-xp"
    path: str  # empty for anonymous memory


def maps(pid: int) -> list[Mapping]:
    """The memory map, in order of addresses."""
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        return [parse_mapping(line) for line in file]


def parse_mapping(line: str) -> Mapping:
    """One line of it."""
    addresses, permissions, _offset, _device, _inode, *path = line.rstrip("\n").split(None, 5)
    start, _, end = addresses.partition("-")
    return Mapping(int(start, 16), int(end, 16), permissions, path[0] if path else "")


def descriptors(pid: int) -> dict[int, str]:
    """The open file descriptors and what each refers to."""
    return {int(link.name): str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}


def threads(pid: int) -> list[int]:
    """Its thread ids."""
    return sorted(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir())


def status_field(pid: int, field: str) -> list[str]:
    """A field of /proc/PID/task/*/status, one a thread; threads that end meanwhile are left out."""
    return [
        line.partition(":")[2].strip()
        for tid in threads(pid)
        for line in status_lines(pid, tid)
        if line.startswith(f"{field}:")
    ]


def status_lines(pid: int, tid: int) -> list[str]:
    """The lines of a thread's status, none if it is gone."""
    try:
        return Path(f"/proc/{pid}/task/{tid}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []

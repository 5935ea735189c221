# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory a process may still get before its cgroup, or the machine, runs out of it.

Of each memory cgroup that it is in there is a limit and what is used of it, part of which are files
that would be given up first (Documentation/admin-guide/cgroup-v2.rst, and cgroup-v1/memory.rst).
What can't be read counts as no limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.linux.procfs import read


class _Version(NamedTuple):
    """Where the memory cgroups of a version of the interface are, and the names of their files."""

    controllers: str
    mounts: tuple[str, ...]
    limit: str
    used: str
    reclaimable: bytes


_VERSIONS = (
    _Version("", ("", "unified"), "memory.max", "memory.current", b"inactive_file"),
    _Version(
        "memory",
        ("memory",),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        b"total_inactive_file",
    ),
)


def memory_left(pid: int, root: str = "/sys/fs/cgroup") -> int:
    """Return how many bytes process `pid` may still get; `root` is where cgroups are mounted."""
    left = _available()
    for version, directory in _cgroups(pid, root):
        try:
            limit = int(read(f"{directory}/{version.limit}"))
            used = int(read(f"{directory}/{version.used}"))
            files = _field(read(f"{directory}/memory.stat"), version.reclaimable)
        except (OSError, ValueError):  # no such cgroup, or its limit is "max"
            continue
        left = min(left, limit - used + files)
    return max(0, left)


def _available() -> int:
    return _field(read("/proc/meminfo"), b"MemAvailable:") << 10


def _field(text: bytes, name: bytes) -> int:
    """Return the number that follows a name at the start of a line."""
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0] == name:
            return int(fields[1])
    raise ValueError(name)


def _cgroups(pid: int, root: str) -> Iterator[tuple[_Version, str]]:
    """Return the directories of the cgroups that a process is in, and those above them."""
    for line in os.fsdecode(read(f"/proc/{pid}/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for version in _VERSIONS:
            if version.controllers not in controllers.split(","):
                continue
            for mount in version.mounts:
                here = path
                while True:
                    yield version, f"{root}/{mount}{here}"
                    if here in ("", "/"):
                        break
                    here = here.rpartition("/")[0]

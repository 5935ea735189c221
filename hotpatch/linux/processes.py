# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of a host: which there are, and how a user may know them (proc(5))."""

from __future__ import annotations

import os

from hotpatch.linux import procfs


def processes() -> list[int]:
    """Return the pids of all processes that /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


def maps_contain(pid: int, text: bytes) -> bool:
    """Say whether a process has `text` in its memory map; raises the OSError of reading that."""
    return text in procfs.read(f"/proc/{pid}/maps")


def program(pid: int) -> tuple[str, int, int] | None:
    """Return path, device and inode of the program that a process runs, None where not allowed.

    The path of a file that was removed or replaced ends in " (deleted)".
    """
    link = f"/proc/{pid}/exe"
    try:
        status = os.stat(link)  # noqa: PTH116
        return os.readlink(link), status.st_dev, status.st_ino  # noqa: PTH115
    except OSError:
        return None


def command_line(pid: int) -> str:
    """Return the arguments of a process, or its name where it has none to show."""
    try:
        arguments = os.fsdecode(procfs.read(f"/proc/{pid}/cmdline")).split("\0")
    except OSError:
        arguments = []
    return " ".join(arguments).strip() or f"[{procfs.command_name(pid)}]"

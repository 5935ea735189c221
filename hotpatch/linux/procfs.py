# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of a process and its threads (proc(5))."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from hotpatch.errors import Gone

_POPULATED = re.compile(rb"[\x40-\xff]+")


class Mapping(NamedTuple):
    """A line of /proc/PID/maps."""

    start: int
    end: int
    protection: str  # "r-xp"
    offset: int
    inode: int
    path: str


class Sleep(NamedTuple):
    """The system call that a thread sleeps in, from /proc/PID/task/TID/syscall."""

    number: int
    arguments: tuple[int, ...]
    rsp: int
    rip: int


class Scheduling(NamedTuple):
    """When a thread last went off its processor, and on which processor that was.

    `exec_start` is in ns of that processor's scheduler clock (kernel/sched, rq_clock_task), which
    begins at boot, stands still while a hypervisor has the processor, and so differs
    from one processor to another. `timeslices` counts how often the thread was put on one.
    """

    exec_start: int
    processor: int
    timeslices: int


def read(path: str) -> bytes:
    """Return a whole /proc file; raises the OSError of open(2) or read(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while piece := os.read(fd, 1 << 18):
            content += piece
        return content
    finally:
        os.close(fd)


def mappings(pid: int) -> list[Mapping]:
    """Return the memory map of a process, lowest address first."""
    result = []
    for line in os.fsdecode(read(f"/proc/{pid}/maps")).splitlines():
        fields = line.split(None, 5)
        start, _, end = fields[0].partition("-")
        path = fields[5] if len(fields) > 5 else ""
        result.append(
            Mapping(
                int(start, 16), int(end, 16), fields[1], int(fields[2], 16), int(fields[4]), path
            )
        )
    return result


def threads(pid: int) -> list[int]:
    """Return the thread ids of a process; raises Gone where there is none."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208
    except FileNotFoundError:
        raise Gone(f"there is no process {pid}", "is the pid right, and still alive?") from None


def thread_count(pid: int) -> int:
    """Return how many threads a process has, a dead leader that is not reaped yet included.

    The link count of /proc/PID/task is two more (`proc_task_getattr`): one call however
    many threads there are.
    """
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2  # noqa: PTH116
    except FileNotFoundError:
        raise Gone(f"process {pid} ended") from None


def state(pid: int, tid: int) -> str:
    """Return a thread's state letter ("R", "S", "D", "T", "t", "Z"), "X" for no thread."""
    try:
        stat = read(f"/proc/{pid}/task/{tid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return chr(stat[stat.rindex(b")") + 2])


def start_time(pid: int) -> int:
    """Return when a process began, in clock ticks since boot: with its pid, its identity."""
    try:
        stat = read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        raise Gone(f"there is no process {pid}") from None
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def status(pid: int, tid: int | None = None) -> dict[str, str]:
    """Return /proc/PID/status as a dictionary; raises Gone."""
    try:
        text = read(f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status")
    except (FileNotFoundError, ProcessLookupError):
        raise Gone(f"there is no process {pid}", "is the pid right, and still alive?") from None
    lines = (line.partition(":") for line in os.fsdecode(text).splitlines())
    return {key: value.strip() for key, _, value in lines}


def command_name(pid: int, tid: int | None = None) -> str:
    """Return the name of a process or thread, "?" where it is gone."""
    try:
        path = f"/proc/{pid}/comm" if tid is None else f"/proc/{pid}/task/{tid}/comm"
        return os.fsdecode(read(path)).strip()
    except OSError:
        return "?"


def sleep(pid: int, tid: int) -> Sleep | None:
    """Return the system call that a thread sleeps in, None where it runs or is gone."""
    try:
        fields = read(f"/proc/{pid}/task/{tid}/syscall").split()
    except OSError:
        return None
    if len(fields) != 9:  # "running", or "-1 SP PC" outside a system call
        return None
    words = [int(word, 16) for word in fields[1:]]
    return Sleep(int(fields[0]), tuple(words[:6]), words[6], words[7])


def scheduling(pid: int, tid: int) -> Scheduling | None:
    """Return the scheduler's record of a thread, None on a kernel that doesn't show it."""
    try:
        text = read(f"/proc/{pid}/task/{tid}/sched")
        stat = read(f"/proc/{pid}/task/{tid}/stat")
    except OSError:
        return None
    at = text.find(b"se.exec_start")
    slices = timeslices(pid, tid)
    if at < 0 or slices is None:
        return None
    milliseconds = text[text.index(b":", at) + 1 : text.index(b"\n", at)].strip()
    processor = int(stat[stat.rindex(b")") + 2 :].split()[36])
    return Scheduling(int(milliseconds.replace(b".", b"")), processor, slices)


def timeslices(pid: int, tid: int) -> int | None:
    """Return how often a thread was put on a processor (/proc/PID/task/TID/schedstat)."""
    try:
        return int(read(f"/proc/{pid}/task/{tid}/schedstat").split()[2])
    except (OSError, IndexError):
        return None


def open_paths(pid: int, mapping: Mapping) -> list[str]:
    """Return the paths under which a mapped file may be opened, surest first.

    /proc/PID/map_files leads to the very file, deleted, replaced or in another mount
    namespace as it may be, but wants CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE. Without it the path
    is looked up below the process's own root, where the inode tells whether it is still that file.
    """
    paths = [f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"]
    named = f"/proc/{pid}/root{mapping.path}"
    try:
        if os.stat(named).st_ino == mapping.inode:  # noqa: PTH116
            paths.append(named)
    except OSError:
        pass
    return paths


def program_inode(pid: int) -> int:
    """Return the inode of the program that a process runs; Gone, or PermissionError."""
    try:
        return os.stat(f"/proc/{pid}/exe").st_ino  # noqa: PTH116
    except (FileNotFoundError, ProcessLookupError):
        raise Gone(
            f"process {pid} has no program: it ended, or is a thread of the kernel"
        ) from None


def populated(pid: int, start: int, end: int) -> list[tuple[int, int]]:
    """Return the (start, end) runs of pages between two addresses that are in memory or swap.

    Others hold nothing but zeros (of private memory) and reading them would only fill page tables.
    Everything, where /proc/PID/pagemap can't be read.
    """
    first, last = start >> 12, end >> 12
    try:
        fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return [(start, end)]
    try:
        words = os.pread(fd, 8 * (last - first), 8 * first)
    finally:
        os.close(fd)
    there = words[
        7::8
    ]  # bit 63: present, bit 62: swapped (Documentation/admin-guide/mm/pagemap.rst)
    runs = []
    for run in _POPULATED.finditer(there):
        runs.append(((first + run.start()) << 12, (first + run.end()) << 12))
    return runs


def processes() -> list[int]:
    """Return the pids of all processes that /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208


def maps_contain(pid: int, text: bytes) -> bool:
    """Say whether a process has `text` in its memory map; raises the OSError of reading that."""
    return text in read(f"/proc/{pid}/maps")


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
        arguments = os.fsdecode(read(f"/proc/{pid}/cmdline")).split("\0")
    except OSError:
        arguments = []
    return " ".join(arguments).strip() or f"[{command_name(pid)}]"

# SPDX-License-Identifier: GPL-2.0-or-later
"""What /proc says of a process and its threads (proc(5))."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from hotpatch.errors import Gone

# Of the top bytes of pagemap entries: 0x80 for a page that is present, 0x40 for one in swap,
# 0x20 for one of a file (Documentation/admin-guide/mm/pagemap.rst).
_ANONYMOUS = re.compile(rb"[\x40-\x5f\x80-\x9f\xc0-\xdf]+")
_PAGEMAP_PIECE = 128 << 10  # pages
_AREA = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *([^\n]*)\n"
    rb".*?^Anonymous: +(\d+).*?^AnonHugePages: +(\d+).*?^Swap: +(\d+).*?^VmFlags: ([^\n]*)",
    re.MULTILINE | re.DOTALL,
)


class Mapping(NamedTuple):
    """A line of /proc/PID/maps."""

    start: int
    end: int
    protection: str  # "r-xp"
    offset: int
    inode: int
    path: str


class Area(NamedTuple):
    """An entry of /proc/PID/smaps; sizes in bytes.

    `anonymous` is what it holds of memory of its own, in swap or not, `huge` what of that is in
    huge pages; `flags` are the two-letter VmFlags of proc_pid_smaps(5).
    """

    start: int
    end: int
    protection: str
    path: str
    anonymous: int
    huge: int
    flags: frozenset[str]


class Child(NamedTuple):
    """A child of a process: its state letter, the signal that it ends with, when it was started.

    `born` is in clock ticks since boot (proc_pid_stat(5), starttime).
    """

    pid: int
    state: str
    exit_signal: int
    born: int


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


def anchor(pid: int) -> int:
    """Return a thread by which a process's memory can be reached.

    That is its leader, unless that has ended before the others: it has no memory any more.
    """
    if state(pid, pid) not in "ZX":
        return pid
    return next((tid for tid in threads(pid) if state(pid, tid) not in "ZX"), pid)


def mappings(pid: int) -> list[Mapping]:
    """Return the memory map of a process, lowest address first."""
    result = []
    text = read(f"/proc/{pid}/maps") or read(f"/proc/{anchor(pid)}/maps")
    for line in os.fsdecode(text).splitlines():
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


def seccomp_mode(pid: int, tid: int) -> str:
    """Return a thread's mode of seccomp: "0" none, "1" strict, "2" filters; quicker than status."""
    try:
        text = read(f"/proc/{pid}/task/{tid}/status")
    except (FileNotFoundError, ProcessLookupError):
        raise Gone(f"thread {tid} of process {pid} ended") from None
    _, found, rest = text.partition(b"\nSeccomp:\t")
    return rest[:1].decode() if found else "0"


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


def scheduling(pid: int, tid: int, schedstat: int, sleep_seen: Sleep | None) -> Scheduling | None:
    """Return the scheduler's record of a thread, None on a kernel that doesn't show it.

    `schedstat` is what `open_schedstat` returned for the thread. With `sleep_seen`, the record is
    that of a thread which is in that sleep: it is seen to sleep after the count of timeslices was
    read, and that is the same in the end. None for a thread that runs meanwhile.
    """
    slices = timeslices(schedstat)
    if sleep_seen is not None and sleep(pid, tid) != sleep_seen:
        return None
    try:
        text = read(f"/proc/{pid}/task/{tid}/sched")
        stat = read(f"/proc/{pid}/task/{tid}/stat")
    except OSError:
        return None
    at = text.find(b"se.exec_start")
    if at < 0 or slices is None or timeslices(schedstat) != slices:
        return None
    milliseconds = text[text.index(b":", at) + 1 : text.index(b"\n", at)].strip()
    exec_start = int(milliseconds.replace(b".", b""))
    processor = int(stat[stat.rindex(b")") + 2 :].split()[36])
    return Scheduling(exec_start, processor, slices) if exec_start else None  # 0: just migrated


def sleep_record(pid: int, tid: int, sleep_seen: Sleep | None) -> Scheduling | None:
    """Return the same of a thread that is looked at only once."""
    schedstat = open_schedstat(pid, tid)
    if schedstat is None:
        return None
    try:
        return scheduling(pid, tid, schedstat, sleep_seen)
    finally:
        os.close(schedstat)


def open_schedstat(pid: int, tid: int) -> int | None:
    """Return a descriptor of /proc/PID/task/TID/schedstat, None where there is none.

    Opening it takes four times as long as reading it.
    """
    try:
        return os.open(f"/proc/{pid}/task/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def timeslices(schedstat: int) -> int | None:
    """Return how often a thread was put on a processor; None where it has ended."""
    try:
        return parse_timeslices(os.pread(schedstat, SCHEDSTAT_SIZE, 0))
    except OSError:
        return None


def timeslices_of(pid: int, tid: int) -> int | None:
    """Return the same of a thread that is looked at only once."""
    schedstat = open_schedstat(pid, tid)
    if schedstat is None:
        return None
    try:
        return timeslices(schedstat)
    finally:
        os.close(schedstat)


SCHEDSTAT_SIZE = 64  # three decimal numbers of 64 bits


def parse_timeslices(schedstat: bytes | bytearray) -> int | None:
    """Return the number of timeslices in the text of a schedstat file, None where it has none."""
    fields = schedstat.split()
    return int(fields[2]) if len(fields) > 2 else None


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


def areas(pid: int) -> list[Area]:
    """Return the memory map of a process with what is in it; raises the OSError of reading it.

    The kernel looks at every page for it: about 50 µs a MB.
    """
    return [
        Area(
            int(start, 16),
            int(end, 16),
            protection.decode(),
            os.fsdecode(path),
            (int(anonymous) + int(swap)) << 10,
            int(huge) << 10,
            frozenset(flags.decode().split()),
        )
        for start, end, protection, path, anonymous, huge, swap, flags in _AREA.findall(
            read(f"/proc/{anchor(pid)}/smaps")
        )
    ]


def populated(pid: int, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (start, end) runs of anonymous pages in some (start, end) of a process's memory.

    They are in memory or in swap. All others hold zeros, or what is in a file.
    """
    runs = []
    fd = os.open(f"/proc/{anchor(pid)}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in spans:
            for first in range(start >> 12, end >> 12, _PAGEMAP_PIECE):
                count = min(_PAGEMAP_PIECE, (end >> 12) - first)
                there = os.pread(fd, 8 * count, 8 * first)[7::8]
                for run in _ANONYMOUS.finditer(there):
                    runs.append(((first + run.start()) << 12, (first + run.end()) << 12))
    finally:
        os.close(fd)
    return runs


def address_space(pid: int) -> int:
    """Return the size of all that a process has mapped, in bytes; raises OSError."""
    return int(read(f"/proc/{anchor(pid)}/statm").split()[0]) << 12


def clock_ticks() -> int:
    """Return the time since boot in the unit of `Child.born`."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return now * os.sysconf("SC_CLK_TCK") // 1_000_000_000


def child(pid: int, inner: int) -> Child | None:
    """Return the child of a process that has pid `inner` where that process lives, if it has it.

    The two differ where the process is in a pid namespace of its own.
    """
    others = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    for candidate in chain((inner,), others):
        found = _child(candidate, pid)
        if found is not None and innermost_pid(candidate) == inner:
            return found
    return None


def _child(pid: int, parent: int) -> Child | None:
    """Return process `pid` if it is a child of `parent`."""
    try:
        stat = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()  # from the third on, the state
    if int(fields[1]) != parent:
        return None
    return Child(pid, fields[0].decode(), int(fields[35]), int(fields[19]))


def innermost_pid(pid: int) -> int:
    """Return the pid of a process where it lives, 0 if it is gone."""
    try:
        return int(status(pid).get("NSpid", str(pid)).split()[-1])
    except Gone:
        return 0


def monotonic_offset_ns(pid: int) -> int:
    """Return how much further CLOCK_MONOTONIC is for a process than for us (time_namespaces(7))."""
    try:
        if os.readlink(f"/proc/{pid}/ns/time") == os.readlink("/proc/self/ns/time"):  # noqa: PTH115
            return 0
        return _monotonic_offset_ns(str(pid)) - _monotonic_offset_ns("self")
    except OSError:  # before Linux 5.6 there are none
        return 0


def _monotonic_offset_ns(pid: str) -> int:
    for line in read(f"/proc/{pid}/timens_offsets").splitlines():
        clock, seconds, nanoseconds = line.split()
        if clock == b"monotonic":
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def private_kib(pid: int) -> int:
    """Return how much memory a process shares with nobody, in KiB; raises OSError."""
    fields = (line.split() for line in read(f"/proc/{pid}/smaps_rollup").splitlines()[1:])
    return sum(int(f[1]) for f in fields if f[0] in (b"Private_Clean:", b"Private_Dirty:"))

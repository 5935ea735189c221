# SPDX-License-Identifier: GPL-2.0-or-later
"""Which processes are meant: by pid, by unit, by name, or by the program that they run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from hotpatch.cli.arguments import Arguments, Usage
from hotpatch.errors import Gone
from hotpatch.linux import processes, procfs

_DELETED = " (deleted)"


class Chosen(NamedTuple):
    """The processes that a command is for, and its other operands.

    `all_of` is the program, where the command is for every process that runs it: the answer is a
    list then, however many they are.
    """

    pids: list[int]
    operands: list[str]
    all_of: str | None


def choose(arguments: Arguments, least: int, most: int, how: str) -> Chosen:
    """Return the processes that a command line names; raises Usage and Gone.

    Besides the process it has to have from `least` to `most` operands; `how` says which.
    """
    _check_count(arguments, least, most, how)
    if arguments.exe is not None and arguments.all_of is not None:
        raise Usage("--exe and --all-of can't be used together", "--exe names one process")
    if arguments.all_of is not None:
        pids = running(arguments.all_of)
        if not pids:
            raise Gone(f"no process runs {arguments.all_of}", "give the path of its program")
        return Chosen(pids, arguments.operands, arguments.all_of)
    if arguments.exe is not None:
        pid = _only(running(arguments.exe), f"run {arguments.exe}")
        return Chosen([pid], arguments.operands, None)
    return Chosen([find(arguments.operands[0])], arguments.operands[1:], None)


def _check_count(arguments: Arguments, least: int, most: int, how: str) -> None:
    by_program = arguments.exe is not None or arguments.all_of is not None
    number = len(arguments.operands) + by_program
    if number == 0:
        raise Usage("no process is given", "name it by PID, unit or name, or with --exe PATH")
    if not least < number <= most + 1:
        raise Usage(f"there are too {'few' if number <= least else 'many'} operands", how)


def find(name: str) -> int:
    """Return the process that a PID, a unit or a name means; raises Usage and Gone.

    A unit comes first: of a service whose workers have its name, it means the main process.
    """
    if name.isascii() and name.isdecimal():
        return int(name)
    if "/" in name:
        raise Usage(f"{name!r} is no PID, unit or name", f"for a program write --exe {name}")
    unit = _main_pid(name)
    return unit or _only(named(name), f"are named {name}")


def named(name: str) -> list[int]:
    """Return the processes that have this name, or run a program of this name."""
    return [pid for pid in _others() if procfs.command_name(pid) == name or _base(pid) == name]


def running(path: str) -> list[int]:
    """Return the processes that run the program at `path`, or what was there before an upgrade."""
    gone = os.path.realpath(path) + _DELETED
    try:
        status = os.stat(path)  # noqa: PTH116
        wanted = (status.st_dev, status.st_ino)
    except OSError:
        wanted = (-1, -1)
    programs = ((pid, processes.program(pid)) for pid in _others())
    return [pid for pid, it in programs if it and (it[1:] == wanted or it[0] == gone)]


def _others() -> Iterable[int]:
    return (pid for pid in processes.processes() if pid != os.getpid())


def _base(pid: int) -> str:
    program = processes.program(pid)
    return os.path.basename(program[0].removesuffix(_DELETED)) if program else ""


def _only(pids: list[int], what: str) -> int:
    """Return the one process of a list; raises Gone for none and Usage for several."""
    if not pids:
        raise Gone(f"there are no processes that {what}", "is it right, and still alive?")
    if len(pids) > 1:
        raise Usage(
            f"{len(pids)} processes {what}",
            "name one by its PID, or all that run a program with --all-of PATH",
            candidates=[{"pid": pid, "command": processes.command_line(pid)} for pid in pids],
        )
    return pids[0]


def _main_pid(unit: str) -> int:
    """Return the main process of a systemd unit, 0 where there is none, or no systemd."""
    import subprocess  # noqa: PLC0415

    command = ["systemctl", "show", "--property=MainPID", "--value", "--", unit]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    text = done.stdout.strip()
    return int(text) if done.returncode == 0 and text.isdigit() else 0

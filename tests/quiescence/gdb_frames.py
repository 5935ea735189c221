# SPDX-License-Identifier: GPL-2.0-or-later
"""What gdb says of a process, for comparison: a session that runs inside gdb, and its other end.

    with Gdb() as gdb:
        for thread in gdb.attach(pid):      # held by gdb from here on
            thread.registers, thread.frames
        gdb.step(tid)                       # one instruction of one thread
        gdb.detach()

This file is both ends: gdb runs it with `-x`. They talk by lines of JSON over two pipes.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, NamedTuple

_REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "eflags", "fs_base", "gs_base", "orig_rax",
)  # fmt: skip
_SETTINGS = (
    "pagination off", "confirm off", "debuginfod enabled off", "print thread-events off",
    "backtrace past-main on", "backtrace past-entry on", "backtrace limit unlimited",
    "print inferior-events off", "width 0", "auto-load libthread-db off",
    "print demangle off",
)  # fmt: skip


class GdbFrame(NamedTuple):
    """A frame on the stack; `sp` is its stack pointer.

    `name` is that of a symbol, `inlined` are those of the functions whose copies it is in,
    innermost first, which gdb composes ("scope::name(int)") where the compiler gave none for
    linkage. `begins`: more of these, which gdb takes as not yet called, as they begin at the
    program counter. `source`: gdb has debug information of it, else there is none inlined.
    """

    pc: int
    sp: int
    signal: bool
    name: str | None
    inlined: tuple[str, ...]
    begins: tuple[str, ...]
    source: bool


class GdbThread(NamedTuple):
    """A thread's registers by name, and its frames, innermost first; `stop` is why they end."""

    tid: int
    registers: dict[str, int]
    frames: tuple[GdbFrame, ...]
    stop: str


class Gdb:
    """A gdb without a terminal; ended with the context."""

    def __init__(self, debug_files: bool = False) -> None:
        """Say whether it is to look for separate debug files, which takes it a while."""
        self._directory = "/usr/lib/debug" if debug_files else "/nonexistent"

    def __enter__(self) -> Gdb:
        """Start it."""
        to_gdb, from_gdb = os.pipe(), os.pipe()
        command = ["gdb", "-q", "-nx", "-batch", "-x", os.path.realpath(__file__)]
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_gdb[0], from_gdb[1]),
            env={
                **os.environ,
                "GDB_PIPES": f"{to_gdb[0]} {from_gdb[1]}",
                "GDB_DEBUG_FILES": self._directory,
                "LC_ALL": "C",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_gdb[0])
        os.close(from_gdb[1])
        self._requests = open(to_gdb[1], "w", encoding="utf-8")
        self._replies = open(from_gdb[0], encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what it held goes on."""
        self._requests.close()
        self._replies.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, verb: str, *arguments: object) -> Any:
        self._requests.write(json.dumps([verb, *arguments]) + "\n")
        self._requests.flush()
        line = self._replies.readline()
        assert line, f"gdb ended at {verb} with {self._process.wait(20)}"
        reply = json.loads(line)
        assert "error" not in reply, reply["error"]
        return reply["value"]

    def attach(self, pid: int) -> list[GdbThread]:
        """Hold a process; return its threads."""
        return [_thread(plain) for plain in self._ask("attach", pid)]

    def detach(self) -> None:
        """Let it go on."""
        self._ask("detach")

    def step(self, tid: int) -> GdbThread:
        """Run one instruction of one thread; the others are held."""
        return _thread(self._ask("step", tid))

    def run_to(self, tid: int, place: str) -> GdbThread:
        """Run one thread up to a place in gdb's notation (`*0x401000`)."""
        return _thread(self._ask("run_to", tid, place))


def _thread(plain: list[Any]) -> GdbThread:
    tid, registers, frames, stop = plain
    return GdbThread(tid, registers, tuple(_frame(*frame) for frame in frames), stop)


def _frame(pc: int, sp: int, signal: bool, name: str | None, *more: Any) -> GdbFrame:
    inlined, begins, source = more
    return GdbFrame(pc, sp, signal, name, tuple(inlined), tuple(begins), source)


# ---- inside gdb ----


class _Session:
    """Answers requests, with gdb's own module."""

    def __init__(self, gdb: Any) -> None:
        self._gdb = gdb
        directory = os.environ["GDB_DEBUG_FILES"]
        for setting in (*_SETTINGS, f"debug-file-directory {directory}"):
            gdb.execute(f"set {setting}", to_string=True)

    def serve(self, requests: Any, replies: Any) -> None:
        for line in requests:
            verb, *arguments = json.loads(line)
            try:
                reply = {"value": getattr(self, verb)(*arguments)}
            except Exception as error:
                reply = {"error": f"{verb}: {type(error).__name__}: {error}"}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()

    def attach(self, pid: int) -> list[Any]:
        self._gdb.execute(f"attach {pid}", to_string=True)
        return [self._show(thread) for thread in self._gdb.selected_inferior().threads()]

    def detach(self) -> None:
        self._gdb.execute("detach", to_string=True)

    def step(self, tid: int) -> list[Any]:
        return self._run(tid, "stepi")

    def run_to(self, tid: int, place: str) -> list[Any]:
        self._select(tid)
        self._gdb.execute(f"tbreak {place}", to_string=True)
        return self._run(tid, "continue")

    def _run(self, tid: int, command: str) -> list[Any]:
        thread = self._select(tid)
        self._gdb.execute("set scheduler-locking on", to_string=True)
        self._gdb.execute(command, to_string=True)
        self._gdb.execute("set scheduler-locking off", to_string=True)
        return self._show(thread)

    def _select(self, tid: int) -> Any:
        threads = self._gdb.selected_inferior().threads()
        (thread,) = (t for t in threads if t.ptid[1] == tid)
        thread.switch()
        return thread

    def _show(self, thread: Any) -> list[Any]:
        gdb = self._gdb
        thread.switch()
        newest = frame = gdb.newest_frame()
        registers = {name: _word(newest, name) for name in _REGISTERS}
        frames: list[list[Any]] = []
        inlined: list[str] = []
        last = newest
        while frame is not None:
            last, kind = frame, frame.type()
            if kind == gdb.INLINE_FRAME:
                inlined.append(_name(frame))
            else:
                if kind != gdb.TAILCALL_FRAME:  # it is not on the stack any more
                    begins = [] if frames else self._begins(newest, len(inlined))
                    more = [self._symbol(frame), inlined, begins, frame.function() is not None]
                    signal = kind == gdb.SIGTRAMP_FRAME
                    frames.append([frame.pc(), _word(frame, "rsp"), signal, *more])
                inlined = []
            frame = frame.older()
        stop = gdb.frame_stop_reason_string(last.unwind_stop_reason())
        return [thread.ptid[1], registers, frames, stop]

    def _symbol(self, frame: Any) -> Any:
        name = _name(frame)
        if name and "(" in name:  # no name of a symbol
            shown = self._gdb.execute(f"info symbol {frame.pc():#x}", to_string=True)
            name = shown.partition(" + ")[0].partition(" in section")[0]
        return name

    def _begins(self, newest: Any, shown: int) -> list[str]:
        """Return the inlined copies that begin at the program counter, but for those shown."""
        pc, names = newest.pc(), []
        block = self._gdb.block_for_pc(pc)
        while block is not None and block.start <= pc < block.end and not block.is_static:
            inlined = block.function is not None and not block.superblock.is_static
            if inlined:
                names.append((block.function.linkage_name, block.start == pc))
            block = block.superblock
        hidden = names[: len(names) - shown]
        return [name for name, begins in hidden if begins]


def _name(frame: Any) -> Any:
    function = frame.function()
    return frame.name() if function is None else function.linkage_name


def _word(frame: Any, name: str) -> int:
    return int(frame.read_register(name)) & (1 << 64) - 1


if "GDB_PIPES" in os.environ and __name__ == "__main__":
    import gdb

    _requests, _replies = (int(number) for number in os.environ["GDB_PIPES"].split())
    with open(_requests, encoding="utf-8") as _lines, open(_replies, "w", encoding="utf-8") as _out:
        _Session(gdb).serve(_lines, _out)

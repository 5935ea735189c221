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
    "debug-file-directory /nonexistent",
)  # fmt: skip


class GdbFrame(NamedTuple):
    """A frame that is not that of an inlined function; `sp` is its stack pointer."""

    pc: int
    sp: int
    signal: bool
    name: str | None


class GdbThread(NamedTuple):
    """A thread's registers by name, and its frames, innermost first; `stop` is why they end."""

    tid: int
    registers: dict[str, int]
    frames: tuple[GdbFrame, ...]
    stop: str


class Gdb:
    """A gdb without a terminal; ended with the context."""

    def __enter__(self) -> Gdb:
        """Start it."""
        to_gdb, from_gdb = os.pipe(), os.pipe()
        command = ["gdb", "-q", "-nx", "-batch", "-x", os.path.realpath(__file__)]
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_gdb[0], from_gdb[1]),
            env={**os.environ, "GDB_PIPES": f"{to_gdb[0]} {from_gdb[1]}", "LC_ALL": "C"},
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
    return GdbThread(tid, registers, tuple(GdbFrame(*frame) for frame in frames), stop)


# ---- inside gdb ----


class _Session:
    """Answers requests, with gdb's own module."""

    def __init__(self, gdb: Any) -> None:
        self._gdb = gdb
        for setting in _SETTINGS:
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
        frames, last = [], newest
        while frame is not None:
            last = frame
            if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):  # not on the stack
                signal = frame.type() == gdb.SIGTRAMP_FRAME
                frames.append([frame.pc(), _word(frame, "rsp"), signal, frame.name()])
            frame = frame.older()
        stop = gdb.frame_stop_reason_string(last.unwind_stop_reason())
        return [thread.ptid[1], registers, frames, stop]


def _word(frame: Any, name: str) -> int:
    return int(frame.read_register(name)) & (1 << 64) - 1


if "GDB_PIPES" in os.environ and __name__ == "__main__":
    import gdb

    _requests, _replies = (int(number) for number in os.environ["GDB_PIPES"].split())
    with open(_requests, encoding="utf-8") as _lines, open(_replies, "w", encoding="utf-8") as _out:
        _Session(gdb).serve(_lines, _out)

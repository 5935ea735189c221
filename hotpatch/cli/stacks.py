# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch stacks PID [FUNCTION ...]`: every thread's frames, and who would block a patch."""

from __future__ import annotations

from hotpatch.cli import arguments as options
from hotpatch.cli.arguments import Arguments
from hotpatch.cli.output import RED, Output
from hotpatch.cli.report import count, milliseconds
from hotpatch.cli.targets import choose
from hotpatch.update.backtrace import Backtrace, MarkedPlace, ThreadStack
from hotpatch.update.target import Target

OPERANDS = ("PID [FUNCTION ...]", "--exe PATH [FUNCTION ...]")
OPTIONS = (options.EXE, options.JSON, options.QUIET, options.NO_COLOR)
_MANY = 1 << 16


def run(arguments: Arguments, output: Output) -> int:
    """Print the stacks of a process."""
    chosen = choose(arguments, 0, _MANY, "hotpatch stacks PID [FUNCTION ...]")
    with Target(chosen.pids[0]) as target:
        found = target.stacks(chosen.operands)
    output.value({"status": "ok", **found.fields()})
    output.result("\n".join(_lines(found, chosen.operands, output)))
    return 0


def _lines(found: Backtrace, functions: list[str], output: Output) -> list[str]:
    lines = []
    for thread in found.threads:
        lines += [_heading(thread), *(_frame(*item, output) for item in enumerate(thread.frames))]
        if not thread.complete:
            lines.append(f"  the frames beyond are not known: {thread.reason}")
        lines += [f"  may be in {name}" for name in thread.blocks if not _shown(thread, name)]
        lines.append("")
    held = milliseconds(found.pause_us)
    lines.append(f"{count(len(found.threads), 'thread')}, held for {held}")
    for function in functions:
        number = sum(function in thread.blocks for thread in found.threads)
        lines.append(f"{function}: {count(number, 'thread')} in it" if number else
                     f"{function}: no thread is in it")  # fmt: skip
    return lines


def _heading(thread: ThreadStack) -> str:
    doing = f"asleep in {thread.syscall}()" if thread.syscall else "running"
    since = f" for {thread.asleep_ms:.1f} ms" if thread.asleep_ms is not None else ""
    return f"thread {thread.tid} ({thread.name}), {doing}{since}"


def _frame(number: int, frame: MarkedPlace, output: Output) -> str:
    mark = "   <- " + output.paint_result(RED, f"blocks {frame.blocks}") if frame.blocks else ""
    return f"  #{number:<2} {frame.place}{mark}"


def _shown(thread: ThreadStack, function: str) -> bool:
    return any(frame.blocks == function for frame in thread.frames)

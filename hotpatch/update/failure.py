# SPDX-License-Identifier: GPL-2.0-or-later
"""What to tell of a check, transfer or reverse that failed: what happened, and where.

The target has its old state by then and runs on, so there is time to unwind and to read lines.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import NamedTuple

from hotpatch.arch import syscalls
from hotpatch.dwarf.cursor import DwarfError
from hotpatch.dwarf.lines import SourceLines
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.errors import HotpatchError, RolledBack
from hotpatch.quiescence.places import Places
from hotpatch.quiescence.unwind import Frame, Unwinder
from hotpatch.update import job
from hotpatch.update.session import Session
from hotpatch.update.transfer import Failed, Fault

_MOST_FRAMES = 16


class Image(NamedTuple):
    """The patch in the target: its file, None if that isn't known, and where it lies."""

    elf: ElfFile | None
    bias: int
    start: int
    end: int
    prefix: str = ""
    """What messages begin with."""


@contextlib.contextmanager
def explained(session: Session, image: Image) -> Iterator[None]:
    """Raise RolledBack, with all that can be told, for a step that fails in this context."""
    try:
        yield
    except Failed as failed:
        raise rolled_back(session, failed, image) from None


def rolled_back(session: Session, failed: Failed, image: Image) -> HotpatchError:
    """Return the error for a step that failed."""
    outcome = failed.outcome
    frames = _frames(session, failed.fault, image)
    what = _what(failed) + (f" at {frames[0]}" if frames else "")
    if outcome.status == job.NOT_ROLLED_BACK:
        return HotpatchError(
            f"{image.prefix}{failed.step} failed, and so did its rollback",
            "the state of the target is unknown; restart it",
            frames=frames,
            messages=failed.messages,
        )
    return RolledBack(
        f"{image.prefix}{failed.step} {what}",
        "the target has its old code and state; mend the patch",
        function=failed.step.name,
        frames=frames,
        messages=failed.messages,
    )


def _what(failed: Failed) -> str:
    outcome = failed.outcome
    if outcome.status == job.RETURNED:
        return f"returned {outcome.code}"
    if outcome.status == job.SIGNALLED:
        return f"got {_signal(outcome.code)}"
    if outcome.status == job.TIMED_OUT:
        return f"did not end within {failed.limit_ns / 1e9:g} s (--transfer-timeout)"
    if outcome.status == job.GIVEN_UP:
        return f"gave up: {failed.messages[-1] if failed.messages else '?'}"
    if outcome.status == job.REFUSED_CALL:
        return f"called {syscalls.name(outcome.code)}, which ends or forks the program"
    return f"was not run: a system call of the target failed with error {outcome.code}"


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _frames(session: Session, fault: Fault | None, image: Image) -> tuple[str, ...]:
    """Return the frames of a step that got a signal, innermost first."""
    if fault is None:
        return ()
    base = fault.registers.rsp

    def read(address: int, size: int) -> bytes:
        part = fault.stack[address - base : address - base + size] if address >= base else b""
        if len(part) < size:
            raise OSError
        return part

    stack = Unwinder(session.process).unwind(fault.registers, read, _MOST_FRAMES)
    frames = (frame for frame in stack.frames if _is_code(frame, image))
    return tuple(place_of(session.places, frame, image) for frame in frames)


def _is_code(frame: Frame, image: Image) -> bool:
    """Say whether a frame is neither nowhere nor the commit program's."""
    inside = image.start <= frame.pc < image.end
    if not inside or image.elf is None:
        return frame.pc != 0
    return image.elf.symbols.at(frame.pc - frame.call - image.bias) is not None


def place_of(places: Places, frame: Frame, image: Image) -> str:
    """Return where a frame is, with the line in the patch's source for one of its code."""
    pc = frame.pc - frame.call
    if not image.start <= pc < image.end or image.elf is None:
        return str(places.of(frame))
    symbol = image.elf.symbols.at(pc - image.bias)
    name = f"{symbol.name}+{frame.pc - image.bias - symbol.value:#x}" if symbol else f"{pc:#x}"
    try:
        found = SourceLines.of_file(image.elf).at(pc - image.bias)
    except (DwarfError, ElfError):
        found = ()
    line = f" at {found[0].file.rpartition('/')[2]}:{found[0].line}" if found else ""
    return f"{name} (patch){line}"

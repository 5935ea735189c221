# SPDX-License-Identifier: GPL-2.0-or-later
"""The stacks of a process: what every thread is doing, and who would be in the way of a patch.

One stop, in which registers and stacks are copied; they are unwound when the threads run again.
Death of the patcher here is as harmless as in any other stop: nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hotpatch.errors import Busy
from hotpatch.link.scope import functions_named
from hotpatch.linux import procfs
from hotpatch.linux.restart import Look, Looks
from hotpatch.linux.threads import Thread, Unstoppable
from hotpatch.process.image import Process
from hotpatch.quiescence.places import Place, Places
from hotpatch.quiescence.ranges import Range, Ranges
from hotpatch.quiescence.stacks import Copier, StackMap
from hotpatch.quiescence.unwind import Unwinder
from hotpatch.quiescence.verdict import by_thread
from hotpatch.update.session import Options, Session


class MarkedPlace(NamedTuple):
    """A frame, and which of the functions asked for it is in, or ""."""

    place: Place
    blocks: str

    def fields(self) -> dict[str, Any]:
        """Return it as a part of the JSON object of the command."""
        place = self.place
        inlined = [{"function": p.function, "file": p.file, "line": p.line} for p in place.inlined]
        return {**place._asdict(), "pc": hex(place.pc), "inlined": inlined, "blocks": self.blocks}


class ThreadStack(NamedTuple):
    """What a thread was doing.

    `syscall` is the system call that it slept in, "" for a thread that ran; `asleep_ms` for how
    long, where the kernel tells: since the call began, or since the last stop of ours. `frames` are
    innermost first; where they are not `complete`, `reason` says why. `blocks` are those of the
    functions asked for that the thread would return into, or may: of an incomplete stack every word
    counts.
    """

    tid: int
    name: str
    syscall: str
    asleep_ms: float | None
    frames: tuple[MarkedPlace, ...]
    complete: bool
    reason: str
    blocks: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Return it as the JSON object of the command."""
        return {**self._asdict(), "frames": [frame.fields() for frame in self.frames]}


class Backtrace(NamedTuple):
    """The stacks of all threads, and for how long the longest of them was held, in µs."""

    pid: int
    pause_us: int
    threads: tuple[ThreadStack, ...]

    def fields(self) -> dict[str, Any]:
        """Return it as the JSON object of the command."""
        return {**self._asdict(), "threads": [thread.fields() for thread in self.threads]}


def backtrace(process: Process, functions: Sequence[str]) -> Backtrace:
    """Return the stacks of a process, with the frames that lie in some functions marked.

    A function is named as in the source, with `file.c:` before it where only that one is meant.
    Raises Refused for a function that the target does not have; Busy for a thread that can't be
    stopped; Gone, Denied.
    """
    ranges = Ranges(_ranges(process, functions))
    session = Session(process, Options())
    unwinder = Unwinder(process)
    stacks = StackMap(process.pid, procfs.mappings(process.pid))
    copier = Copier(process.memory, stacks, ranges)
    with Looks(process.pid, procfs.threads(process.pid), date_all=True) as looks:
        try:
            with session.hold("stacks", looks, observer=copier.add) as hold:
                threads = list(hold.threads.values())
        except Unstoppable as error:
            raise Busy(
                f"thread {error.tid} can't be stopped (state {error.state})",
                "it waits for storage, or for a child of vfork: try again",
            ) from None
    words = by_thread(copier.hits)
    places = Places(process)
    return Backtrace(
        process.pid,
        max(1, hold.held_ns // 1000),
        tuple(
            _describe(
                process, places, unwinder, copier, ranges, thread, looks.get(thread.tid), words
            )
            for thread in sorted(threads, key=lambda thread: thread.tid)
        ),
    )


def _ranges(process: Process, functions: Sequence[str]) -> list[Range]:
    """Return the code of functions, with the fragments that the compiler split off."""
    found: dict[int, Range] = {}
    for text in functions:
        file, _, name = text.rpartition(":")
        for module, symbol in functions_named(process, name, file or None):
            for part in (symbol, *module.elf.symbols.fragments(symbol)):
                start = module.bias + part.value
                # A call at the very end of a function, which never returns, returns behind it.
                found.setdefault(start, Range(start, start + part.size + 1, text))
    ordered = sorted(found.values())
    starts = [r.start for r in ordered[1:]]
    cut = [r._replace(end=min(r.end, start)) for r, start in zip(ordered, starts, strict=False)]
    return [*cut, *ordered[-1:]]


def _describe(
    process: Process,
    places: Places,
    unwinder: Unwinder,
    copier: Copier,
    ranges: Ranges,
    thread: Thread,
    look: Look | None,
    words: dict[int, tuple[int, ...]],
) -> ThreadStack:
    stack = unwinder.unwind(thread.registers, copier.reader(thread.tid))
    frames = tuple(
        MarkedPlace(places.of(frame), found.function if (found := ranges.find(frame.pc)) else "")
        for frame in stack.frames
    )
    blocks = [frame.blocks for frame in frames if frame.blocks]
    if not stack.complete:
        pointing = (ranges.find(word) for word in words.get(thread.tid, ()))
        blocks += [found.function for found in pointing if found]
    call, asleep_ms = _asleep(process, thread, look)
    name = procfs.command_name(process.pid, thread.tid)
    return ThreadStack(
        thread.tid,
        name,
        call,
        asleep_ms,
        frames,
        stack.complete,
        stack.reason,
        tuple(dict.fromkeys(blocks)),
    )


def _asleep(process: Process, thread: Thread, look: Look | None) -> tuple[str, float | None]:
    """Return the call that a thread slept in when it was stopped, and for how long, in ms."""
    if look is None or look.sleep.rsp != thread.registers.rsp:
        return "", None
    call = process.call_name(look.sleep)
    if look.since_ns is None:
        return call, None
    return call, max(0, thread.interrupted_ns - look.since_ns) / 1e6

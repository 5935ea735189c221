# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that never return: a thread's main loop, and those that called it.

The outermost loop on a stack is the one that its thread lives in: of all frames whose call is
reached again from where it returns to, the one that is nearest to the thread's start. What lies
inward of it comes and goes. It and the frames outward stay, and a function that is among them
is waited for in vain.

A function that goes through a loop only once, at the start of a thread, looks the same while it is
there. So a frame counts only after it has been seen for some time, at every look.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.arch.flow import call_before, reaches
from hotpatch.elf.file import ElfError
from hotpatch.process.image import Process
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.unwind import Frame
from hotpatch.quiescence.verdict import Blocked

_SURE_NS = 60_000_000
_LOOKS = 3
_LARGEST = 1 << 16
# What calls a program's main, or a thread's function, and never gets to see it return: code behind
# such a call is not where the call returns to.
_STARTS = re.compile(r"_?start|_?_libc_start.*|libc_start.*|start_thread|_?_?clone3?|start")
_C_LIBRARIES = re.compile(r"(libc|libpthread|ld|libc\.musl)[.-].*so.*")


class Endless(NamedTuple):
    """A replaced function that never returns: the thread, the frame of it, and that of the loop."""

    tid: int
    function: str
    frame: Frame
    loop: Frame


class _Sighting(NamedTuple):
    """How often a frame was seen, and since when (time.perf_counter_ns)."""

    looks: int
    since_ns: int


class Recogniser:
    """Looks at the threads in the way, try after try."""

    def __init__(self, process: Process, ranges: Ranges) -> None:
        """Prepare; `ranges` are the replaced functions."""
        self._process = process
        self._ranges = ranges
        self.suspects = False
        """Whether there is one that may turn out to stay, at the next looks."""
        self._sightings: dict[tuple[int, int], _Sighting] = {}
        self._in_loop: dict[int, bool] = {}

    def look(self, blocked: Sequence[Blocked]) -> Endless | None:
        """Take note of the threads in the way; return one that will stay there for ever."""
        now = time.perf_counter_ns()
        sightings = {}
        sure = None
        for endless in self._candidates(blocked):
            key = (endless.tid, endless.frame.cfa)
            before = self._sightings.get(key, _Sighting(0, now))
            sightings[key] = seen = _Sighting(before.looks + 1, before.since_ns)
            if seen.looks >= _LOOKS and now - seen.since_ns >= _SURE_NS:
                sure = sure or endless
        self._sightings = sightings
        self.suspects = bool(sightings)
        return sure

    def _candidates(self, blocked: Sequence[Blocked]) -> list[Endless]:
        found = []
        for thread in blocked:
            at = self._main_loop(thread.frames)
            for frame in thread.frames[at:] if at is not None else ():
                place = self._ranges.find(frame.pc)
                if place is not None and frame.cfa:
                    found.append(Endless(thread.tid, place.function, frame, thread.frames[at or 0]))
        return found

    def _main_loop(self, frames: Sequence[Frame]) -> int | None:
        """Return which frame is that of the outermost loop."""
        for at in range(len(frames) - 1, -1, -1):
            frame = frames[at]
            if frame.call and self._is_in_loop(frame.pc):
                return at
        return None

    def _is_in_loop(self, pc: int) -> bool:
        """Say whether the call that returns to `pc` can be reached again from there."""
        if pc not in self._in_loop:
            self._in_loop[pc] = self._look_for_loop(pc)
        return self._in_loop[pc]

    def _look_for_loop(self, pc: int) -> bool:
        try:
            module = self._process.module_at(pc - 1)
            if module is None or _C_LIBRARIES.fullmatch(module.name):
                return False
            symbol = module.elf.symbols.at(pc - 1 - module.bias)
            if symbol is None or symbol.size > _LARGEST or _STARTS.fullmatch(symbol.name):
                return False
            start = module.bias + symbol.value
            code = module.elf.read(symbol.value, symbol.size)  # without a jump to a gate in it
        except ElfError:
            return False
        call = call_before(code, start, pc)
        return call is not None and reaches(code, start, pc, call)

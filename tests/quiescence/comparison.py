# SPDX-License-Identifier: GPL-2.0-or-later
"""Our stacks against gdb's, while gdb holds the process: what is equal, and what is excused.

    tally = Tally()
    comparison = Comparison(process, tally)
    for thread in gdb.attach(pid):
        comparison.compare(thread)          # AssertionError where the two differ
    print(tally)

Every frame has to have the same program counter and stack pointer; the same name, but for aliases,
for entries of a PLT, which only gdb names, and for what only a separate debug file names, where gdb
is not told to look for these; and the same inlined callers, where gdb has debug information.

A stack of ours may end early in two places only, and is equal up to there:

- in code without call frame information, where gdb goes by what it makes of the instructions. That
  there is none is confirmed by readelf.
- in libgcc, when an exception is about to land: it has then written the address of the landing pad
  over its own return address, and the registers of the function that catches over its own.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

from hotpatch.link.scope import symbol_tables
from hotpatch.process.image import Process
from hotpatch.process.modules import Module
from hotpatch.quiescence.places import Place, Places
from hotpatch.quiescence.unwind import Frame, Stack, Unwinder
from tests.dwarf.readelf_frames import lines
from tests.quiescence.gdb_frames import GdbFrame, GdbThread
from tests.quiescence.test_unwind import assert_as_gdb, registers_of

SILENT = "in code without call frame information"
LANDING = "where an exception is about to land"
FROM_DEBUG_FILE = "ours only, from a debug file"
_LANDS = {
    "_Unwind_RaiseException",
    "_Unwind_Resume",
    "_Unwind_Resume_or_Rethrow",
    "_Unwind_ForcedUnwind",
}
# What gcc appends to the name of a function for its parts and clones.
_PART = re.compile(r"(\.(cold|part|constprop|isra)(\.\d+)?)+")


class Tally:
    """How much was compared, and with what result."""

    def __init__(self) -> None:
        self.stacks: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.names: Counter[str] = Counter()
        self.modules: Counter[str] = Counter()
        self.signals = 0
        self.asleep = 0
        self.places: set[int] = set()

    @property
    def excused(self) -> int:
        """The stacks that end early."""
        return self.stacks.total() - self.stacks["equal"]

    def __str__(self) -> str:
        modules = ", ".join(f"{name} {count}" for name, count in self.modules.most_common())
        return (
            f"{self.stacks.total()} stacks, stopped in {len(self.places)} places: "
            f"{_listed(self.stacks)}; besides {self.asleep} that were the same as before\n"
            f"  {self.frames.total()} frames: {_listed(self.frames)}\n"
            f"  names: {_listed(self.names)}\n"
            f"  {self.signals} signal frames; frames by module: {modules}"
        )


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counter.most_common())


class Comparison:
    """Compares the stacks of one process."""

    def __init__(self, process: Process, tally: Tally) -> None:
        """Count in `tally`."""
        self._process = process
        self._tally = tally
        self._unwinder = Unwinder(process)
        self._places = Places(process)
        self._names: dict[tuple[object, ...], str] = {}
        self._last: dict[int, GdbThread] = {}

    def compare(self, thread: GdbThread) -> None:
        """Compare the stack of a thread that is held, unless it is where it was the last time."""
        tally, theirs = self._tally, thread.frames
        if self._last.get(thread.tid) == thread:
            tally.asleep += 1
            return
        self._last[thread.tid] = thread
        stack = self._unwinder.unwind(registers_of(thread), self._process.read)
        result, known = "equal", stack.frames
        if stack.complete:
            assert_as_gdb(stack, thread)
        else:
            assert_begins_as_gdb(stack, thread)
            result, known = f"equal up to {self._excuse(stack)}", known[:-1]
            tally.frames["beyond those"] += len(theirs) - len(known)
        tally.stacks[result] += 1
        tally.frames["equal"] += len(known)
        tally.signals += sum(frame.signal for frame in theirs[: len(known)])
        tally.places.add(stack.frames[0].pc)
        for frame, other in zip(known, theirs, strict=False):
            tally.modules[self._module_name(frame)] += 1
            tally.names[self._compare_names(frame, other)] += 1

    # ---- stacks that end early ----

    def _excuse(self, stack: Stack) -> str:
        """Return why a stack may end where it does; AssertionError where it may not."""
        last = stack.frames[-1]
        if "no call frame information" in stack.reason and not last.call:
            module = self._module(last)
            assert module is not None, stack
            assert not _is_described(module.path, last.pc - module.bias), (module, stack)
            return SILENT
        # Its caller is the landing pad, which has one where there happens to be a call before it.
        ending = [self._places.of(frame) for frame in stack.frames[-3:]]
        landing = [p.function in _LANDS and p.module.startswith("libgcc_s.") for p in ending]
        assert any(landing[:-1]), ending
        return LANDING

    # ---- names ----

    def _compare_names(self, ours: Frame, theirs: GdbFrame) -> str:
        """Return what the two names have in common; AssertionError where they contradict."""
        key = (ours.pc, ours.call, *theirs[3:])
        if key not in self._names:
            place = self._places.of(ours)
            if theirs.source:
                inlined = [position.function for position in place.inlined]
                shown = [theirs.inlined, theirs.begins + theirs.inlined]
                assert any(_are_the_same(inlined, names) for names in shown), (place, theirs)
            self._names[key] = self._relation(place, theirs.name or "")
        return self._names[key]

    def _relation(self, place: Place, name: str) -> str:
        if not place.function:
            # For gdb a jump to a function of another file has a name as well.
            assert not name or name.endswith("@plt"), (place, name)
            return "gdb's only, of a PLT entry" if name else "none"
        module = self._process.code_at(place.pc - 1)
        assert module is not None, place
        start = place.pc - place.offset - module.bias
        if not name:
            assert module.elf.symbols.at(start) is None, place
            return FROM_DEBUG_FILE
        if name.partition("@")[0] == place.function:
            return "the same"
        tables = symbol_tables(module)
        aliases = [s for table in tables for s in table.by_name(name.partition("@")[0])]
        if any(symbol.value == start for symbol in aliases):
            return "another of the same symbol"
        assert _PART.fullmatch(place.function.removeprefix(name)), (place, name)
        return "that of a part or clone of the function"

    # ---- modules ----

    def _module(self, frame: Frame) -> Module | None:
        return self._process.code_at(frame.pc - frame.call)

    def _module_name(self, frame: Frame) -> str:
        module = self._module(frame)
        return module.name if module is not None else "elsewhere"


def assert_begins_as_gdb(stack: Stack, thread: GdbThread) -> None:
    """Compare the frames of a stack that ends early; its last one has no known end."""
    theirs = thread.frames[: len(stack.frames)]
    assert [frame.pc for frame in stack.frames] == [frame.pc for frame in theirs], (stack, thread)
    assert [f.cfa for f in stack.frames[:-1]] == [f.sp for f in theirs[1:]], (stack, thread)


def _are_the_same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Compare names; what gdb composed of scopes, name and parameters has ours within."""
    return len(ours) == len(theirs) and all(
        name == other or re.search(rf"(?:^|::){re.escape(name)}(?:\(.*)?$", other)
        for name, other in zip(ours, theirs, strict=True)
    )


@functools.cache
def _described(path: str) -> list[tuple[int, int]]:
    """Return the code that a file has call frame information for, as readelf reads it."""
    return sorted((line.start, line.end) for line in lines(path))


def _is_described(path: str, address: int) -> bool:
    rows = _described(path)
    at = bisect_right(rows, (address, 1 << 64)) - 1
    return at >= 0 and rows[at][0] <= address < rows[at][1]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the stacks of suspended coroutines that have a frame in some code.

A word in memory that points into the code is a return address on a stack that somebody may go
back to, or it is stale, left on a stack that was given up; or data. To go back to a stack takes a
stack pointer, which is saved somewhere: in another piece of memory, in the stack in use of a
thread or in a register. So, around each such word and below it, as far as frames may reach,

1. the return addresses of calls that may switch stacks are looked up (`quiescence.suspended`),
2. all memory is searched for pointers to right there, and for those that glibc has mangled,
3. the stacks are unwound from these. The frames that are found are what counts.

So a stale word is in the way only as long as an old stack pointer is kept as well, and
everything between the two is as it was.

A coroutine may also have been suspended by a signal handler, in which case the word is no return
address but the rip in a signal frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hotpatch.arch import switching
from hotpatch.arch.registers import USER_CODE_SEGMENT
from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.linux.memory import Buffer
from hotpatch.linux.procfs import Mapping as MappedArea
from hotpatch.linux.threads import Thread
from hotpatch.process.image import Process
from hotpatch.quiescence import spans
from hotpatch.quiescence.mangled import Mangled
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.references import Finder, Reference, Span, batches, pointers, search_copy
from hotpatch.quiescence.suspended import Chain, Saved, Stacks
from hotpatch.quiescence.unwind import Frame

_DEEPEST = 256 << 10  # below a frame: where the stack may have been left
_OPEN = 64 << 10  # above a place from which a stack can't be unwound
_BATCH = 256 << 10  # stays in the processor's cache from the copying to the search
_SAVED = 8 * switching.LONGEST_SAVE
_PLACES = 4
_LARGEST_STACK = 64 << 20
_SELECTOR = 16  # from the word with rip to that with cs, in a signal frame


class Suspended(NamedTuple):
    """A coroutine: its saved stack pointer, the program counters that block, its frames.

    Without frames there was no time to find out whether it is one.
    """

    stack: int
    addresses: tuple[int, ...]
    frames: tuple[Frame, ...]


class View(NamedTuple):
    """What is searched: `runs` of memory, within mappings that are `areas`; all (start, end).

    `live` are what threads have in use of their stacks: only stack pointers are looked for there.
    `threads` are all, stopped, and `guard` is glibc's pointer guard; or none, and 0.
    """

    areas: Sequence[Span]
    runs: Sequence[Span]
    live: Sequence[Span]
    threads: Mapping[int, Thread]
    guard: int


class Search:
    """Searches one process for stacks with frames in `forbidden`."""

    def __init__(self, process: Process, forbidden: Ranges) -> None:
        """Prepare; the buffers, too, as new memory would cost more than the copying."""
        self._process = process
        self._forbidden = forbidden
        self._stacks = Stacks(process)
        self._outside: dict[Saved, bytes] = {}
        self._deadline_ns = 0
        self._buffers = {lane: Buffer(_BATCH, lane) for lane in (1, 2, 3, Mangled.lane)}

    def follow(self, mappings: Sequence[MappedArea]) -> None:
        """Take a newer memory map; made for the time before a stop."""
        self._outside.clear()
        self._stacks.follow(mappings)

    def in_use(self, thread: Thread, at_home: bool) -> list[Span]:
        """Return where the frames of a thread end, or all that they take up of another stack.

        That begins with what the thread may write without moving its stack pointer. On the stack
        that it was started on, there may be those of coroutines in the midst of its frames.
        """
        stack = self._stacks.unwinder.unwind(thread.registers, self._process.read)
        ends = [frame.cfa for frame in stack.frames if frame.cfa]
        if at_home:
            return [(end, end + 1) for end in ends]
        start = thread.registers.rsp - RED_ZONE - 8
        outermost = max((e for e in ends if start <= e < start + _LARGEST_STACK), default=start)
        return [(start, outermost + 1)]

    def find(self, view: View) -> list[Suspended]:
        """Return all suspended stacks."""
        self._deadline_ns = 0
        hits = self._hits(view)
        found: dict[int, Suspended] = {}  # by the outer end, as it may be reached in several ways
        for suspended, top in self._suspended(view, hits):
            if top not in found or len(found[top].frames) < len(suspended.frames):
                found[top] = suspended
        return list(found.values())

    def first(
        self, view: View, deadline_ns: int, is_running: Callable[[Suspended], bool]
    ) -> Suspended | None:
        """Return a suspended stack on which no thread runs; after the deadline, what may be one."""
        self._deadline_ns = 0
        hits = self._hits(view)
        self._deadline_ns = deadline_ns
        try:
            for suspended, _ in self._suspended(view, hits):
                if not is_running(suspended):
                    return suspended
        except TimeoutError:
            return Suspended(hits[0].address, tuple(hit.target for hit in hits[:8]), ())
        return None

    def _hits(self, view: View) -> list[Reference]:
        return [hit for hit in self._references(view.runs, self._forbidden) if self._counts(hit)]

    def _suspended(self, view: View, hits: list[Reference]) -> Iterator[tuple[Suspended, int]]:
        """Yield stacks with frames in the code, and where they end; raises TimeoutError."""
        for saved in self._changed(self._saved(view, _below(hits, view.areas)) if hits else []):
            self._check_time()
            end = _end(saved.pointer, view.areas)
            chains = self._stacks.chains(saved, end)
            for chain in chains:
                inside = self._inside(chain, hits)
                if chain.open and spans.around(saved.pointer, view.live) is not None:
                    continue  # left by a thread that has gone on since, or it would not be there
                if inside:
                    yield Suspended(saved.pointer, inside, chain.frames), chain.top
                elif not chain.open and len(chains) == 1:
                    copy = self._stacks.copy(saved, chain.top)
                    if copy and self._stacks.chains(saved, chain.top, copy) == chains:
                        self._outside[saved] = copy  # not only now, but whenever it is like this

    def _changed(self, saved: list[Saved]) -> list[Saved]:
        """Return those of some stacks that don't have the content with which they were outside."""
        known = [(one, before) for one in saved if (before := self._outside.get(one)) is not None]
        pieces = [(one.pointer - 8, len(before)) for one, before in known]
        copy = Buffer(sum(size for _, size in pieces))
        if not known or self._process.memory.read_many(pieces, copy) < copy.size:
            return saved
        same, at = set(), 0
        for one, before in known:
            if copy.content(at, len(before)) == before:
                same.add(one)
            at += len(before)
        return [one for one in saved if one not in same]

    def _check_time(self) -> None:
        if self._deadline_ns and time.perf_counter_ns() > self._deadline_ns:
            raise TimeoutError

    def _references(self, runs: Iterable[Span], finder: Finder) -> list[Reference]:
        buffer = self._buffers[finder.lane]
        found: list[Reference] = []
        for batch in batches(runs, _BATCH):
            self._check_time()
            self._process.memory.copy(batch, buffer)
            found += search_copy(batch, buffer, finder)
        return found

    def _counts(self, hit: Reference) -> bool:
        """Say whether a word may be a return address, or the rip in a signal frame."""
        if self._stacks.calls.before(hit.target) is not None:
            return True
        return self._word(hit.address + _SELECTOR) & 0xFFFF == USER_CODE_SEGMENT

    def _saved(self, view: View, below: list[Span]) -> list[Saved]:
        """Return what may be saved stack pointers into some (start, end), nearest first."""
        stacks = [part for run in view.runs for part in spans.common(run, below)]
        slots = [found.address for found in self._references(stacks, self._stacks.calls.switches)]
        near = pointers(spans.merged((slot - _SAVED, slot + 9) for slot in slots), few=True)
        everywhere = [*view.runs, *view.live]
        found: dict[int, list[int]] = {}
        for reference in self._references(everywhere, near):
            found.setdefault(reference.target, []).append(reference.address)
        states = b"".join(bytes(thread.registers) for thread in view.threads.values())
        for _, word in near.search(states):
            found.setdefault(word, []).append(0)
        saved = [_saved(pointer, at) for pointer, at in sorted(found.items()) if not pointer % 8]
        if view.guard:
            saved += self._mangled(everywhere, below, view.guard)
        return saved

    def _mangled(self, runs: Iterable[Span], below: list[Span], guard: int) -> list[Saved]:
        found = []
        for reference in self._references(runs, Mangled(below, guard)):
            pointer, at = reference.target, reference.address
            pc = switching.demangle(self._word(at + 8), guard)
            if not pointer % 8 and self._stacks.calls.before(pc) is not None:
                rbp = switching.demangle(self._word(at + switching.JMPBUF_RBP), guard)
                found.append(Saved(pointer, (at,), pc, rbp))
        return found

    def _word(self, address: int) -> int:
        words = self._stacks.calls.words(address, 1)
        return words[0] if words else 0

    def _inside(self, chain: Chain, hits: Iterable[Reference]) -> tuple[int, ...]:
        """Return the program counters of a stack that lie in the code."""
        inside = [f.pc for f in chain.frames if self._forbidden.find(f.pc) is not None]
        if chain.open:
            inside += [h.target for h in hits if chain.top <= h.address < chain.top + _OPEN]
        return tuple(inside)


def _saved(pointer: int, found: Iterable[int]) -> Saved:
    """Return a pointer with some of the places where it was found.

    The further away these are, the less likely they are on the very stack that it points to.
    """
    nearest_last = sorted(found, key=lambda at: abs(at - pointer), reverse=True)
    return Saved(pointer, tuple(nearest_last[:_PLACES]))


def _below(hits: Iterable[Reference], areas: Sequence[Span]) -> list[Span]:
    """Return where stacks with frames at these words may have been left."""
    found = []
    for hit in hits:
        area = spans.around(hit.address, areas)
        lowest = area[0] if area else 0
        found.append((max(lowest, hit.address - _DEEPEST), hit.address + 9))
    return spans.merged(found)


def _end(address: int, areas: Sequence[Span]) -> int:
    area = spans.around(address, areas)
    return area[1] if area else address

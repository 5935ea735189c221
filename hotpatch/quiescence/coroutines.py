# SPDX-License-Identifier: GPL-2.0-or-later
"""Coroutines that are suspended inside code that is to be replaced: no thread runs on their stacks.

Nothing is looked for in a process that has no coroutines (`quiescence.switching`). In others, the
writable memory that a process has to itself, all but the stacks that its threads run on, is
searched for words that point into the code in question. Where there is none, no coroutine is in
there, proven without unwinding. Otherwise `quiescence.sleeping` finds out which of these words lie
on a stack that somebody may go back to.

A stack that a thread has gone on with is that thread's own: its frames are where those were that
the stack pointer, saved before, leads to.

What counts is the search in the stop in which the update is committed. Its cost is estimated
before, and memory is left out of it, the largest mappings first, beyond 4 ms, or half of
--max-pause. That memory is searched before the stop only, and `unseen` says how much it was. To
tell words from frames may take 30 ms in all, or --max-pause; then the stop counts as one in which a
coroutine was in the way.

Measured on a busy machine: 0.5 to 1 ms for each MB and 8 µs for each mapping, as long as no word
points into the code. With stacks full of stale words, a stop of 0.3 ms took 1.3 ms for one stack
of 32 KB and 10 to 16 ms for a hundred (`python -m bench.coroutines`).

Not found are stacks in shared memory or in huge pages of hugetlbfs, and in a mapping that a thread
has its stack in the upper part of, without a guard page between.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain

from hotpatch.arch.sigframe import RED_ZONE
from hotpatch.arch.switching import GUARD
from hotpatch.linux import procfs
from hotpatch.linux.threads import Thread
from hotpatch.linux.writable import writable
from hotpatch.process.image import Process
from hotpatch.quiescence import spans
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.references import Span
from hotpatch.quiescence.sleeping import Search, Suspended, View
from hotpatch.quiescence.stacks import StackMap
from hotpatch.quiescence.switching import sets_jumps

_MOST_NS = 4_000_000
_MOST_SURE_NS = 30_000_000  # where nobody has set a limit
_NS_A_MB, _NS_AN_AREA, _NS_A_PAGE, _NS_A_MAPPING = 500_000, 8_000, 10, 1_500
_MOST_SPACE = 1 << 36  # of one mapping
_LARGEST_STACK = 64 << 20


class Coroutines:
    """Looks for suspended coroutines of one process, before its stops and in them."""

    def __init__(self, process: Process, forbidden: Ranges) -> None:
        """Prepare to look for those inside `forbidden`."""
        self.unseen = 0
        self._process = process
        self._search = Search(process, forbidden)
        self._areas: list[Span] = []
        self._heap = 0
        self._guard = 0
        self._left_out: list[Span] = []
        self._reads_map = True
        self._looked = False
        self._sets_jumps = False
        self._before: list[Suspended] = []
        self._time_ns = _MOST_SURE_NS

    def look(
        self, mappings: Sequence[procfs.Mapping], in_use: Iterable[int], limit_ns: int | None
    ) -> None:
        """Look around before a stop, which may last for `limit_ns`; raises Gone.

        `in_use` are stack pointers of threads. Everything is searched the first time, to learn
        the code; and what will not be searched in the stop, every time.
        """
        self._search.follow(mappings)
        self._heap = next((m.start for m in mappings if m.path == "[heap]"), 0)
        areas = [(m.start, m.end) for m in mappings if m.protection in ("rw-p", "rwxp")]
        self._areas = [area for area in areas if area[1] - area[0] <= _MOST_SPACE]
        budget = _MOST_NS if limit_ns is None else limit_ns // 2
        self._time_ns = _MOST_SURE_NS if limit_ns is None else limit_ns
        self._reads_map = len(mappings) * _NS_A_MAPPING < budget // 2
        runs = procfs.populated(self._process.pid, self._areas)
        self._leave_out(runs, budget, in_use)
        if not self._looked:
            self._sets_jumps = sets_jumps(self._process)
        if self._left_out or not self._looked:
            self._looked = True
            found = self._search.find(View(self._areas, runs, [], {}, self._guard))
            self._before = [s for s in found if spans.around(s.stack, self._left_out)]

    def _leave_out(self, runs: Sequence[Span], budget: int, in_use: Iterable[int]) -> None:
        """Choose what is not searched in the stop, for want of time.

        The stacks of threads, as far as they are known, are not searched there anyway.
        """
        used = dict.fromkeys(self._areas, 0)
        starts = [start for start, _ in self._areas]
        for start, end in runs:
            used[self._areas[bisect_right(starts, start) - 1]] += end - start
        costs = {
            area: _NS_AN_AREA + ((area[1] - area[0]) * _NS_A_PAGE >> 12) + (size * _NS_A_MB >> 20)
            for area, size in used.items()
        }
        for pointer in in_use:
            area = spans.around(pointer, self._areas)
            if area is not None and area[1] - area[0] <= _LARGEST_STACK:
                costs[area] = _NS_AN_AREA
        self._left_out, total = [], 0
        for area in sorted(costs, key=costs.__getitem__):
            total += costs[area]
            if total > budget:
                self._left_out.append(area)
        self._left_out.sort()
        self.unseen = sum(used[area] for area in self._left_out)

    def all(self) -> list[Suspended]:
        """Return all coroutines that seem to be in the way; made for the time after a stop."""
        runs = procfs.populated(self._process.pid, self._areas)
        return self._search.find(View(self._areas, runs, [], {}, self._guard))

    def in_the_way(
        self, threads: Mapping[int, Thread], stacks: StackMap, suspicious: Iterable[int]
    ) -> Suspended | None:
        """Return a coroutine in the way, if there is one; for the inside of a stop of all threads.

        `suspicious` are threads on whose stacks there are words that point into the code.
        """
        began = time.perf_counter_ns()
        areas = writable(self._process.pid) if self._reads_map else self._areas
        areas = [area for area in areas if not spans.overlaps(area, self._left_out)]
        live = {t.tid: span for t in threads.values() if (span := _in_use(t, stacks)) is not None}
        homes = sorted(span for span in live.values() if not self._is_in_heap(span[0], areas))
        parts = [part for area in areas for part in _without(area, homes)]
        runs = procfs.populated(self._process.pid, parts)
        doubtful = {*suspicious, *(threads.keys() - live.keys())}
        runs += [live[tid] for tid in doubtful if tid in live]
        if self._sets_jumps and not self._guard:
            self._guard = self._read_guard(threads)
        view = View(areas, runs, sorted(live.values()), threads, self._guard)
        running = _Running(self._search, [threads[tid] for tid in doubtful], live)
        before = (coroutine for coroutine in self._before if not running.has(coroutine))
        return next(before, None) or self._search.first(view, began + self._time_ns, running.has)

    def _is_in_heap(self, address: int, areas: Sequence[Span]) -> bool:
        """Say whether a stack is a piece of the heap: other things are next to it."""
        area = spans.around(address, areas)
        return area is not None and area[0] == self._heap

    def _read_guard(self, threads: Mapping[int, Thread]) -> int:
        """Return glibc's pointer guard, which all threads have; 0 without one."""
        for thread in threads.values():
            try:
                found = self._process.read(thread.registers.fs_base + GUARD, 8)
            except OSError:
                continue
            return int.from_bytes(found, "little")
        return 0


class _Running:
    """The stacks that some threads run on, looked up when they are first asked for."""

    def __init__(self, search: Search, threads: Sequence[Thread], home: Container[int]) -> None:
        self._search = search
        self._threads = threads
        self._home = home
        self._in_use: list[Span] | None = None

    def has(self, coroutine: Suspended) -> bool:
        """Say whether a stack is one of them.

        Then a thread's frames end where its outer ones do, or have overwritten them.
        """
        if self._in_use is None:
            found = [self._search.in_use(t, t.tid in self._home) for t in self._threads]
            self._in_use = spans.merged(chain.from_iterable(found))
        ends = [frame.cfa for frame in coroutine.frames if frame.cfa]
        return any(spans.around(end, self._in_use) for end in ends)


def _in_use(thread: Thread, stacks: StackMap) -> Span | None:
    """Return what a thread has in use of the stack that it was started on; None elsewhere."""
    registers = thread.registers
    home = stacks.home(thread.tid, registers.fs_base)
    start = registers.rsp - RED_ZONE & -8
    if home is None or not home[0] <= start < home[1]:
        return None
    return start, home[1] & -8


def _without(area: Span, live: Sequence[Span]) -> list[Span]:
    """Return what of an area is no stack of a thread: not what it uses, nor what is below that."""
    first = bisect_right(live, (area[0], 0))
    last = bisect_right(live, (area[1] - 1, 1 << 64))
    if first == last:
        return [area]
    end = live[last - 1][1]
    return [(end & -4096, area[1])] if end < area[1] else []

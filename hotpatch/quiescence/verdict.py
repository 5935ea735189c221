# SPDX-License-Identifier: GPL-2.0-or-later
"""Which threads really are in the way, of those whose stacks hold suspicious words.

A word that points into forbidden code may be stale: left over from a call that has returned, in a
local variable that nobody has written yet. So a thread with such words is unwound; where its
stack is known to the outermost frame, its frames are what counts, otherwise its words.

Unwinding is too slow for a stop. So it is done when the threads run again, and the next stop only
sees whether what came of it still holds (`quiescence/proof.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import frames as arch
from hotpatch.errors import Gone
from hotpatch.linux import procfs
from hotpatch.linux.procfs import Sleep
from hotpatch.linux.threads import Thread
from hotpatch.process.image import Process
from hotpatch.quiescence.glance import asleep_inside
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.stacks import Hit, StackMap

if TYPE_CHECKING:  # most updates find no word that would have to be judged
    from hotpatch.quiescence.proof import Proof, Shape
    from hotpatch.quiescence.proofs import Proofs
    from hotpatch.quiescence.unwind import Frame, Stack, Unwinder

_BUDGET_NS = 1_000_000  # what unwinding may add to a short stop; a longer one it may double
_MOST_NS = 16_000_000  # what it may add where less has not been enough, stop after stop


class Blocked(NamedTuple):
    """A thread in the way: the addresses that block, and its frames as far as they are known."""

    tid: int
    addresses: tuple[int, ...]
    frames: tuple[Frame, ...]


class _Finding(NamedTuple):
    """What follows from a proof: see Judge._finding."""

    proof: Proof
    inside: tuple[int, ...] | None


class Judge:
    """Unwinds suspicious threads between two stops, for verdicts in the second."""

    def __init__(self, process: Process) -> None:
        """Judge threads of `process`, as its memory map is now."""
        self._process = process
        self._unwinder: Unwinder | None = None
        self._proofs: Proofs | None = None
        # As of the last verdict:
        self._ranges = Ranges(())
        self._stacks = StackMap(process.pid, ())
        self._findings: dict[int, _Finding] = {}
        self._parts: dict[Shape, tuple[int, ...]] = {}
        self._proven: dict[int, Proof] = {}
        self._unproven: dict[int, Thread] = {}
        self._budget_ns = _BUDGET_NS  # for the next one

    def judge(
        self, hits: Sequence[Hit], threads: dict[int, Thread], stacks: StackMap, ranges: Ranges
    ) -> list[Blocked]:
        """Return those of the stopped threads with hits that are in the way.

        Made for the inside of a stop: a thread that `learn` has unwound, and that is still as it
        was then, is judged by that. Others are unwound, but not for long; who was not unwound
        counts as in the way. Where nothing else is, the next stop may take longer.
        """
        if ranges is not self._ranges:
            self._ranges, self._findings, self._parts = ranges, {}, {}
        self._stacks = stacks
        words = by_thread(hits)
        stopped = [threads[tid] for tid in words]
        self._proven = self._proofs.holding(stopped) if self._proofs is not None else {}
        self._unproven = {t.tid: t for t in stopped if t.tid not in self._proven}
        blocked = []
        for tid, proof in self._proven.items():
            inside = self._finding(threads[tid], proof).inside
            if inside or inside is None:
                blocked.append(Blocked(tid, inside or words[tid], proof.stack.frames))
        deadline = self._deadline()
        for tid, thread in self._unproven.items():
            inside, frames = self._look(thread, deadline)
            if inside or inside is None:
                blocked.append(Blocked(tid, inside or words[tid], frames))
        if self._unwinder is not None:
            in_vain = bool(blocked) and not any(thread.frames for thread in blocked)
            self._budget_ns = min(2 * self._budget_ns, _MOST_NS) if in_vain else _BUDGET_NS
        return blocked

    def glance(
        self, sleeps: Mapping[int, Sleep], stacks: StackMap, ranges: Ranges
    ) -> list[Blocked]:
        """Return the threads that sleep inside of `ranges` for sure, without stopping any."""

        def unwind(sleep: Sleep) -> Stack:
            values: list[int | None] = [None] * len(arch.DWARF_REGISTERS)
            values[arch.RETURN_ADDRESS], values[arch.RSP] = sleep.rip, sleep.rsp
            return self._ready().unwind_from(values, self._process.read, call=False)

        found = asleep_inside(self._process.memory, sleeps, stacks, ranges, unwind)
        return [
            Blocked(tid, tuple(f.pc for f in stack.frames if ranges.find(f.pc)), stack.frames)
            for tid, stack in found.items()
        ]

    def follow(self, mappings: Sequence[procfs.Mapping]) -> None:
        """Take notice of a newer memory map: code may have come and gone."""
        if self._unwinder is not None and self._unwinder.follow(mappings) and self._proofs:
            self._proofs.forget()

    def learn(self, threads: Iterable[Thread]) -> None:
        """Unwind threads that run again: these, and others without a proof at the last verdict.

        What comes of it may be nonsense where a thread has gone on: then it will not hold.
        """
        from hotpatch.quiescence.proofs import Proofs  # noqa: PLC0415

        unwinder = self._ready()
        if self._proofs is None:
            self._proofs = Proofs(self._process.memory)
        more = {thread.tid: thread for thread in threads if thread.tid not in self._proven}
        unproven = {**self._unproven, **more}
        with contextlib.suppress(Gone):
            found = self._proofs.find(unproven.values(), unwinder)
            for tid, proof in found.items():
                self._finding(unproven[tid], proof)
        self._unproven = {}

    def _ready(self) -> Unwinder:
        from hotpatch.quiescence.unwind import Unwinder  # noqa: PLC0415

        if self._unwinder is None:
            self._unwinder = Unwinder(self._process)
        return self._unwinder

    def _finding(self, thread: Thread, proof: Proof) -> _Finding:
        """Return where in the ranges a proof has a thread; None where its words count.

        It is found out once for each proof, and mostly once for each shape.
        """
        finding = self._findings.get(thread.tid)
        if finding is None or finding.proof is not proof:
            shape = proof.shape
            whole = shape.complete and self._leads_home(thread, shape.cfas(proof.rsp))
            finding = _Finding(proof, self._inside(shape) if whole else None)
            self._findings[thread.tid] = finding
        return finding

    def _inside(self, shape: Shape) -> tuple[int, ...]:
        inside = self._parts.get(shape)
        if inside is None:
            inside = self._parts[shape] = self._in_ranges(shape.pcs)
        return inside

    def _look(
        self, thread: Thread, deadline: int
    ) -> tuple[tuple[int, ...] | None, tuple[Frame, ...]]:
        """Return the same of a thread without a proof, and its frames, if there is time."""
        if self._unwinder is None or self._proofs is None:
            return None, ()
        if time.perf_counter_ns() >= deadline:
            return None, ()
        try:
            proof = self._proofs.by_shape(thread.registers)
            if proof is not None:
                inside = self._finding(thread, proof).inside
                return inside, proof.stack.frames if inside or inside is None else ()
            stack = self._unwinder.unwind(thread.registers, self._process.read)
        except Gone:
            return None, ()
        if not stack.complete or not self._leads_home(thread, (f.cfa for f in stack.frames)):
            return None, stack.frames
        return self._in_ranges(frame.pc for frame in stack.frames), stack.frames

    def _leads_home(self, thread: Thread, cfas: Iterable[int]) -> bool:
        """Say whether frames are all that a thread will return through, if their stack is complete.

        On another stack than its own, they are only if they lead back to that one.
        """
        home = self._stacks.home(thread.tid, thread.registers.fs_base)
        return home is not None and any(home[0] <= cfa <= home[1] for cfa in cfas)

    def _in_ranges(self, pcs: Iterable[int]) -> tuple[int, ...]:
        return tuple(pc for pc in pcs if self._ranges.find(pc) is not None)

    def _deadline(self) -> int:
        """Return until when threads may be unwound in this stop (time.perf_counter_ns)."""
        now = time.perf_counter_ns()
        began = min((thread.interrupted_ns for thread in self._unproven.values()), default=now)
        return now + max(self._budget_ns, now - began)


def unjudged(hits: Iterable[Hit]) -> list[Blocked]:
    """Return every thread with a hit as one that is in the way."""
    return [Blocked(tid, addresses, ()) for tid, addresses in by_thread(hits).items()]


def by_thread(hits: Iterable[Hit]) -> dict[int, tuple[int, ...]]:
    """Return the words that hit, by thread."""
    found: dict[int, list[int]] = {}
    for hit in hits:
        found.setdefault(hit.tid, []).append(hit.address)
    return {tid: tuple(addresses) for tid, addresses in found.items()}

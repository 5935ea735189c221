# SPDX-License-Identifier: GPL-2.0-or-later
"""One update of one process: its limits, and the account of its stops."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.errors import Busy, Denied
from hotpatch.linux import access, procfs
from hotpatch.linux.priority import undisturbed
from hotpatch.linux.restart import Looks
from hotpatch.linux.threads import Batch, Hold
from hotpatch.process.image import Process
from hotpatch.quiescence.stacks import StackMap
from hotpatch.quiescence.verdict import Judge
from hotpatch.update.coroutines import Check
from hotpatch.update.result import (
    TRANSFER_TIMEOUT,
    FunctionChange,
    PatchName,
    Progress,
    Rehearsal,
    Result,
    StopTime,
)

if TYPE_CHECKING:
    from hotpatch.quiescence.places import Places

TOO_LONG = "no stop was short enough for --max-pause"
LATER = "try again when the target is less busy, or with a longer --timeout"
# What tries that come to nothing may cost the target: at once, and of the time waited. That is the
# time it is held, and our share of the processors, of which it may need all.
_FREE_NS, _SHARE = 20_000_000, 0.007
_LONGEST_S, _LONGEST_NAP_S = 2.0, 0.1


class Options(NamedTuple):
    """Limits of an update: seconds to wait for quiescence, ms to hold the target at most.

    `transfer_timeout` is how many seconds checks and transfers may take together, `rehearse`
    whether they are tried out in a replica before, and `require_types` whether a patch is refused
    whose types can't be checked.
    """

    timeout: float = 10.0
    max_pause_ms: float | None = None
    on_progress: Callable[[Progress], None] | None = None
    transfer_timeout: float = TRANSFER_TIMEOUT
    rehearse: bool = True
    require_types: bool = False


class Session:
    """An update in progress."""

    def __init__(self, process: Process, options: Options) -> None:
        """Begin the account of an update of `process`."""
        self.process = process
        self.options = options
        self.warnings: list[str] = []
        self.rehearsal: Rehearsal | None = None
        self.messages: tuple[str, ...] = ()  # of the patch, for the operator
        self.attempts = 0
        self.threads = 0
        self.stacks = StackMap(process.pid, ())  # as of the last stop of all threads
        self.kept: set[int] = set()  # regions that could not be given back
        self._judge: Judge | None = None
        self._places: Places | None = None
        self.coroutines = Check(self)
        self._stops: list[StopTime] = []
        self._stopped = 0.0  # when the last stop was over
        self._held_ns = 0
        self._worked_ns = 0
        self._uncounted_since_ns = 0
        self._began = time.monotonic()
        self._deadline: float | None = None
        self._waiting_since = 0.0  # the first try that failed

    @property
    def judge(self) -> Judge:
        """Return the judge of blocking threads; it knows the patches that are mapped now."""
        if self._judge is None:
            self._judge = Judge(self.process)
        return self._judge

    @property
    def places(self) -> Places:
        """Return what looks up frames; it is not needed before there is somebody in the way."""
        if self._places is None:
            from hotpatch.quiescence.places import Places  # noqa: PLC0415

            self._places = Places(self.process)
        return self._places

    def refresh(self) -> None:
        """Forget what was read of the process: its memory map has changed."""
        self.process.refresh()
        self._judge = self._places = None

    @property
    def max_pause_ns(self) -> int | None:
        """Return how long a stop may last, None for no limit."""
        limit = self.options.max_pause_ms
        return None if limit is None else int(limit * 1e6)

    def looks(self) -> Looks:
        """Return what the threads sleep in now, without stopping them."""
        return Looks(self.process.pid, procfs.threads(self.process.pid))

    @contextlib.contextmanager
    def hold(
        self,
        phase: str,
        looks: Looks,
        only: int | None = None,
        observer: Callable[[Batch], object] | None = None,
    ) -> Iterator[Hold]:
        """Stop the target, or one thread of it, invisibly; put the stop on the account.

        `observer` is given the threads as they stop.
        """

        def stopped(batch: Batch) -> None:
            self.process.restarter.conceal(batch, looks)
            if observer is not None:
                observer(batch)

        pid = self.process.pid
        hold = Hold(pid, only, self.max_pause_ns, stopped, looks.watched)
        try:
            with undisturbed(), hold:
                self.threads = max(self.threads, len(hold.threads))
                yield hold
        except PermissionError as error:
            if isinstance(error, Denied):
                raise
            raise access.why_denied(pid) from None
        finally:
            self._stopped = time.monotonic()
            if hold.held_ns:
                self.note_stop(phase, hold.held_ns // 1000)
                if not self._uncounted_since_ns:
                    self._held_ns += hold.held_ns

    def longest_stop_us(self, phase: str) -> int:
        """Return the longest time for which threads were held in a phase so far, in µs."""
        return max((stop.us for stop in self._stops if stop.phase == phase), default=0)

    def note_stop(self, phase: str, us: int) -> None:
        """Put it on the account that threads were held for up to `us` µs."""
        self._stops.append(StopTime(phase, max(1, us)))

    def wait_before_retry(
        self, phase: str, tries: int, blockers: tuple[str, ...], longest_s: float | None = None
    ) -> bool:
        """Report, and pause before another try; return False when there is no time for one.

        Pauses get longer: 1 ms at first, then a third of the time waited so far, and 100 ms or
        `longest_s` at the most.
        """
        self.process.check_alive()
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if self._deadline is None:
            self._deadline = now + self.options.timeout
        if now >= self._deadline:
            return False
        waited = now - self._waiting_since
        if self.options.on_progress is not None:
            self.options.on_progress(Progress(phase, tries, waited, self.options.timeout, blockers))
        nap = min(_LONGEST_NAP_S, max(0.001, waited / 3))
        if longest_s is not None:
            nap = min(nap, longest_s)
        time.sleep(min(nap, max(0.0, self._deadline - now)))
        return True

    def may_stop(self) -> bool:
        """Say whether it is time for a stop that may be in vain.

        Those of a long wait may cost the target 0.7 % of it, once 20 ms are used up, so that it
        does not get slower. But there is one every 2 s, and one in the end.
        """
        now = time.monotonic()
        waited = now - self._waiting_since
        return (
            self._cost_ns() - _FREE_NS <= waited * 1e9 * _SHARE
            or now - self._stopped >= _LONGEST_S
            or (self._deadline is not None and now >= self._deadline)
        )

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Not count, in this context, what is done as part of the cost of tries."""
        if self._uncounted_since_ns:  # in a context within
            yield
            return
        began = self._uncounted_since_ns = time.thread_time_ns()
        try:
            yield
        finally:
            self._worked_ns += time.thread_time_ns() - began
            self._uncounted_since_ns = 0

    def _cost_ns(self) -> int:
        """Return what the tries have cost since the first one was over."""
        now = time.thread_time_ns()
        self._worked_ns = self._worked_ns or now
        return self._held_ns + (now - self._worked_ns) // (os.cpu_count() or 1)

    @contextlib.contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Wait for so long at most, in this context: for what may be left undone."""
        deadline, limit = self._deadline, time.monotonic() + seconds
        self._deadline = limit if deadline is None else min(deadline, limit)
        try:
            yield
        finally:
            self._deadline = deadline

    def too_long(self, hold: Hold) -> bool:
        """Say whether a stop can't end within --max-pause any more, were all let go now."""
        limit = self.max_pause_ns
        if limit is None or not hold.threads:
            return False
        first = min(thread.interrupted_ns for thread in hold.threads.values())
        release_ns = 5_000 * len(hold.threads)
        return time.perf_counter_ns() - first + release_ns > limit

    def result(
        self, status: str, patch: PatchName, functions: tuple[FunctionChange, ...]
    ) -> Result:
        """Return the outcome with all that was counted."""
        return Result(
            status,
            self.process.pid,
            patch,
            functions,
            self.threads,
            self.attempts,
            max((stop.us for stop in self._stops), default=0),
            tuple(self._stops),
            int((time.monotonic() - self._began) * 1000),
            (*self.warnings, *self.coroutines.caveats()),
            self.rehearsal,
            self.messages,
        )


def no_time(reason: str, session: Session, advice: str = LATER, **details: object) -> Busy:
    """Return the error for an update that ran out of time; `advice` is what would help."""
    return Busy(
        reason,
        f"nothing was changed after {session.options.timeout:g} s; {advice}",
        **details,  # type: ignore[arg-type]
    )

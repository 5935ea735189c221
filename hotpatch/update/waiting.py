# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting between two tries, without a stop where one would be in vain.

A thread that was in the way and has slept since is in the way still. And one whose main loop is in
the way will be for ever: it is not waited for at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hotpatch.errors import Blocker, Busy
from hotpatch.linux.sleepers import Sleepers
from hotpatch.linux.threads import Thread
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.verdict import Blocked
from hotpatch.update.session import TOO_LONG, Session, no_time

if TYPE_CHECKING:
    from hotpatch.quiescence.endless import Recogniser


class Waiting:
    """The tries so far, and who was in the way at the last one."""

    def __init__(self, session: Session, phase: str, forbidden: Ranges) -> None:
        """Begin with no try."""
        self.forbidden = forbidden
        self._session = session
        self._phase = phase
        self._tries = 0
        self._obstacles: tuple[Blocker, ...] = ()
        self._blocked: list[Blocked] = []
        self._sleepers = Sleepers(session.process.pid)
        self._recogniser: Recogniser | None = None

    def count(self) -> None:
        """Begin a try."""
        self._tries += 1
        self._session.attempts = max(self._session.attempts, self._tries)

    def obstructed(
        self,
        obstacles: tuple[Blocker, ...],
        blocked: Sequence[Blocked] = (),
        threads: Mapping[int, Thread] | None = None,
        data: bool = False,
    ) -> None:
        """Note what was in the way: as it is told, and the threads with their registers.

        A thread that was not unwound yet may have only a stale word on its stack, which the next
        stop will show; unless words are what matters (`data`).
        """
        self._obstacles = obstacles
        self._blocked = list(blocked)
        sure = [thread.tid for thread in blocked if thread.frames or data]
        pointers = {tid: threads[tid].registers.rsp for tid in sure} if threads else {}
        self._sleepers.expect(pointers)

    def wait(self) -> None:
        """Wait until another try is worth while; raises Busy where there is no time for one."""
        while True:
            self._expect_end()
            names = tuple(sorted({blocker.function for blocker in self._obstacles}))
            if not self._session.wait_before_retry(self._phase, self._tries, names):
                raise no_time(
                    _reason(self._obstacles),
                    self._session,
                    blockers=self._obstacles,
                    attempts=self._tries,
                )
            if not self._sleepers.still_there():
                return
            self.count()

    def _expect_end(self) -> None:
        """Raise Busy for a function that never returns."""
        if not any(thread.frames for thread in self._blocked):
            return
        from hotpatch.quiescence import endless  # noqa: PLC0415 - only with frames
        from hotpatch.quiescence.unwind import describe  # noqa: PLC0415

        process = self._session.process
        self._recogniser = self._recogniser or endless.Recogniser(process, self.forbidden)
        found = self._recogniser.look(self._blocked)
        if found is None:
            return
        loop = describe(process, found.loop)
        raise Busy(
            f"{found.function} never returns: thread {found.tid} lives in the loop at {loop}",
            "nothing was changed; let the patch replace what that loop calls, or a function that "
            "its body is moved into",
            blockers=self._obstacles,
            attempts=self._tries,
        )


def _reason(blockers: tuple[Blocker, ...]) -> str:
    first = blockers[0]
    if first.function == "--max-pause":
        return TOO_LONG
    if not first.tid:
        return first.function
    if first.function.startswith("("):
        return f"thread {first.tid} can't be stopped {first.function}"
    functions = sorted({blocker.function for blocker in blockers})
    return f"{len(blockers)} thread(s) stayed in {', '.join(functions[:5])}"

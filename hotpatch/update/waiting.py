# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting between two tries, without a stop where one would be in vain.

A thread that was in the way and has slept since is in the way still. And one whose main loop is in
the way will be for ever: it is not waited for at all. Where there is always somebody in the way,
calls are made to run out (`update.drain`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hotpatch.errors import Blocker, Busy
from hotpatch.linux.sleepers import Sleepers
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.verdict import Blocked
from hotpatch.update.coroutines import RESUME
from hotpatch.update.session import LATER, TOO_LONG, Session, no_time

if TYPE_CHECKING:
    from hotpatch.quiescence.endless import Recogniser
    from hotpatch.update.drain import Drain


class Waiting:
    """The tries so far, and who was in the way at the last one."""

    def __init__(
        self, session: Session, phase: str, forbidden: Ranges, drain: Drain | None
    ) -> None:
        """Begin with no try; `drain` is what may be done to get a quiescent moment."""
        self.forbidden = forbidden
        self.drain = drain
        self._session = session
        self._phase = phase
        self._tries = 0
        self._obstacle: Blocker | None = None
        self._tell_all: Callable[[], tuple[Blocker, ...]] | None = None
        self._blocked: list[Blocked] = []
        self._tell: Callable[[Blocked], Blocker] | None = None
        self._sleepers = Sleepers(session.process.pid)
        self._recogniser: Recogniser | None = None
        self._prepared = False

    def count(self) -> None:
        """Begin a try."""
        self._tries += 1
        self._session.attempts = max(self._session.attempts, self._tries)

    def obstructed(
        self, obstacle: Blocker, tell_all: Callable[[], tuple[Blocker, ...]] | None = None
    ) -> None:
        """Note what was in the way, where that is no thread in the code.

        `tell_all` finds out what else is in the way like it, should that be needed.
        """
        self._obstacle, self._tell_all, self._blocked = obstacle, tell_all, []
        self._sleepers.expect({})

    def blocked(
        self,
        blocked: Sequence[Blocked],
        tell: Callable[[Blocked], Blocker],
        pointers: Mapping[int, int],
    ) -> None:
        """Note which threads were in the way; `tell` describes one, should that be needed.

        `pointers` are the stack pointers of those of them that are so for sure, as long as they
        sleep.
        """
        self._obstacle, self._blocked, self._tell = None, list(blocked), tell
        self._sleepers.expect(pointers)

    def wait(self) -> None:
        """Wait until another try is worth while; raises Busy where there is no time for one."""
        awake = news = True
        while True:
            if news:
                self._expect_end()
            if self.drain and (self._blocked or self.drain.running):
                self.drain.proceed(awake)
            longest = self.drain.nap_s if self.drain else None
            if not self._session.wait_before_retry(
                self._phase, self._tries, self._names(), longest
            ):
                raise self._no_time()
            awake = not self._sleepers.still_there()
            if (awake and self._session.may_stop()) or (self.drain and self.drain.is_pressing):
                return
            news = not awake
            if news:
                self.count()

    def _no_time(self) -> Busy:
        blockers = self._blockers()
        what = _reason(blockers)
        drain = self.drain
        if drain and drain.has_points():
            what += ", and came to no update point"
        elif drain and drain.longest_s:
            what += (
                f", also when new callers were made to wait, {drain.tried} times for up to "
                f"{drain.longest_s * 1000:.0f} ms"
            )
        advice = RESUME if _are_coroutines(blockers) else LATER
        return no_time(what, self._session, advice, blockers=blockers, attempts=self._tries)

    def _names(self) -> tuple[str, ...]:
        """Return the functions that are in the way."""
        if self._obstacle is not None:
            return (self._obstacle.function,)
        addresses = {address for thread in self._blocked for address in thread.addresses}
        found = (self.forbidden.find(address) for address in addresses)
        return tuple(sorted({place.function for place in found if place is not None}))

    def _blockers(self) -> tuple[Blocker, ...]:
        if self._obstacle is not None:
            return self._tell_all() if self._tell_all is not None else (self._obstacle,)
        assert self._tell is not None
        return tuple(self._tell(thread) for thread in self._blocked)

    def _expect_end(self) -> None:
        """Raise Busy for a function that never returns."""
        if self.drain and self.drain.has_points():
            return  # its frames may stay where they are
        if not any(thread.frames for thread in self._blocked):
            return
        from hotpatch.quiescence import endless  # noqa: PLC0415 - only with frames

        process = self._session.process
        self._recogniser = self._recogniser or endless.Recogniser(process, self.forbidden)
        found = self._recogniser.look(self._blocked)
        if found is None:
            if self._recogniser.suspects and not self._prepared:
                self._prepared = True
                with self._session.uncounted():
                    self._blockers()  # reads debug information, while there is time
            return
        loop = self._session.places.of(found.loop)
        raise Busy(
            f"{found.function} never returns: thread {found.tid} lives in the loop at {loop}",
            "nothing was changed; let the patch replace what that loop calls, or a function that "
            "its body is moved into; or name a function that it calls as an update point "
            "(HOTPATCH_UPDATE_POINT, --update-point)",
            blockers=self._blockers(),
            attempts=self._tries,
        )


def _reason(blockers: tuple[Blocker, ...]) -> str:
    first = blockers[0]
    if first.function == "--max-pause":
        return TOO_LONG
    if not first.tid and not _are_coroutines(blockers):
        return first.function
    if first.function.startswith("("):
        return f"thread {first.tid} can't be stopped {first.function}"
    functions = sorted({blocker.function for blocker in blockers})
    who = "suspended coroutine(s)" if _are_coroutines(blockers) else "thread(s)"
    return f"{len(blockers)} {who} stayed in {', '.join(functions[:5])}"


def _are_coroutines(blockers: tuple[Blocker, ...]) -> bool:
    return not blockers[0].tid and bool(blockers[0].syscall)

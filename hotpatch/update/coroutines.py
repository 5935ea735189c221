# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether suspended coroutines are in the way of a change: what `update.moment` asks at each try.

A target that has no coroutines is asked once, before its first stop, and costs nothing after. The
answer is noted in the ledger, so that a revert need not read ELF files for it: 1 where there may be
coroutines, otherwise a checksum of the files that code is mapped from.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from hotpatch.errors import Blocker, Denied
from hotpatch.linux import procfs
from hotpatch.linux.restart import Looks
from hotpatch.linux.threads import Hold
from hotpatch.process import ledger
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.stacks import Scanner

if TYPE_CHECKING:
    from hotpatch.quiescence.coroutines import Coroutines
    from hotpatch.quiescence.places import Places
    from hotpatch.quiescence.sleeping import Suspended
    from hotpatch.update.session import Session
    from hotpatch.update.waiting import Waiting

RESUME = (
    "let the program resume them until they have left it, or patch what it calls instead: "
    "coroutines that are never resumed stay in it"
)
_SOME = 1
_PHASES = ("arm", "commit")  # nothing is suspended in what later phases change


class Check:
    """The search for coroutines of one target, over an update."""

    def __init__(self, session: Session) -> None:
        """Prepare; nothing is looked at yet."""
        self._session = session
        self._unseen = 0
        self._why_not = ""
        self._patches: Sequence[ledger.Entry] = ()
        self._may_switch: bool | None = None
        self._forbidden: Ranges | None = None
        self._coroutines: Coroutines | None = None

    def note(self, header: int) -> None:
        """Note in a ledger's header what is known; death here is as harmless as before."""
        memory = self._session.process.memory
        if self._may_switch is not None:
            word = _SOME if self._may_switch else self._files()
            memory.write(header + ledger.COROUTINES_OFFSET, struct.pack("<I", word))

    def recall(self, header: int) -> None:
        """Take what was noted when a patch was applied, if it holds still."""
        self._patches = self._session.process.patches
        place = header + ledger.COROUTINES_OFFSET
        (word,) = struct.unpack("<I", self._session.process.read(place, 4))
        if word == _SOME:
            self._may_switch = True
        elif word == self._files():
            self._may_switch = False

    def _files(self) -> int:
        """Return a number, greater than 1, for the files that code is mapped from."""
        mappings = (m for m in self._session.process.mappings if m.inode and "x" in m.protection)
        text = repr([(m.start, m.offset, m.inode) for m in mappings])
        return zlib.crc32(text.encode()) | 2

    def prepare(
        self, phase: str, forbidden: Ranges, mappings: Sequence[procfs.Mapping], looks: Looks
    ) -> None:
        """Look around before a stop; without a phase nothing is looked for."""
        if phase not in _PHASES or not self._is_needed(forbidden):
            self._coroutines = None
            return
        if self._coroutines is None or self._forbidden is not forbidden:
            from hotpatch.quiescence.coroutines import Coroutines  # noqa: PLC0415 - seldom needed

            self._forbidden = forbidden
            self._coroutines = Coroutines(self._session.process, forbidden)
        in_use = [seen.sleep.rsp for seen in looks.values()]
        try:
            self._coroutines.look(mappings, in_use, self._session.max_pause_ns)
        except PermissionError as error:  # its pages can't be listed
            if isinstance(error, Denied):
                raise
            self._why_not = error.strerror or "denied"
            self._may_switch, self._coroutines = False, None

    def _is_needed(self, forbidden: Ranges) -> bool:
        if self._may_switch is None:
            from hotpatch.quiescence.switching import can_switch  # noqa: PLC0415 - reads symbols

            process = self._session.process
            self._may_switch = can_switch(process, forbidden.starts, self._patches)
        return self._may_switch

    def in_the_way(self, phase: str, hold: Hold, scanner: Scanner, waiting: Waiting) -> bool:
        """Say whether coroutines are in the way, in a stop in which no thread is; note which."""
        if phase not in _PHASES:
            return False
        if self._coroutines is None:
            if scanner.away and not self._why_not:  # there are some, after all
                self._may_switch = True
                waiting.obstructed(Blocker(0, "coroutines were not looked for yet", (), ""))
                return True
            return False
        suspicious = {hit.tid for hit in scanner.hits}
        found = self._coroutines.in_the_way(hold.threads, self._session.stacks, suspicious)
        self._unseen = self._coroutines.unseen
        if found is None:
            return False
        tell_all = partial(self._tell_all, self._coroutines, found, waiting.forbidden)
        waiting.obstructed(_tell(found, waiting.forbidden), tell_all)
        return True

    def _tell_all(
        self, coroutines: Coroutines, first: Suspended, forbidden: Ranges
    ) -> tuple[Blocker, ...]:
        """Return the coroutine that was found in a stop, and those that seem to be there now."""
        found = coroutines.all()
        if not any(first.stack == other.stack or not first.frames for other in found):
            found = [first, *found]
        return tuple(_tell(coroutine, forbidden, self._session.places) for coroutine in found)

    def caveats(self) -> tuple[str, ...]:
        """Return what the result has to say of the search."""
        if self._why_not:
            return (f"suspended coroutines were not looked for: {self._why_not}",)
        if not self._unseen:
            return ()
        return (
            f"{-(-self._unseen >> 20)} MB of the target's memory were searched for suspended "
            "coroutines only before it was stopped (--max-pause may allow it in the stop)",
        )


def _tell(found: Suspended, forbidden: Ranges, places: Places | None = None) -> Blocker:
    """Return a coroutine with the function that blocks, where its stack is, and its frames."""
    ranges = [forbidden.find(address) for address in found.addresses]
    name = next((r.function for r in ranges if r is not None), "?")
    perhaps = "" if found.frames else "perhaps a "
    frames = tuple(str(places.of(frame)) for frame in found.frames) if places else ()
    return Blocker(0, name, frames, f"{perhaps}suspended coroutine, its stack at {found.stack:#x}")

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether threads still sleep the sleep in which they were seen: a look that stops nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hotpatch.linux import procfs


class _Asleep(NamedTuple):
    """A sleep, and how often its thread had been on a processor by then."""

    sleep: procfs.Sleep
    timeslices: int


class Sleepers:
    """Threads that were stopped, and may have gone back to sleep where they were."""

    def __init__(self, pid: int) -> None:
        """Begin with no thread of process `pid`."""
        self._pid = pid
        self._expected: dict[int, int] = {}
        self._seen: dict[int, _Asleep] = {}

    def expect(self, pointers: Mapping[int, int]) -> None:
        """Take the threads that were stopped with these stack pointers."""
        self._expected = dict(pointers)
        self._seen = {}

    def still_there(self) -> bool:
        """Say whether one of them sleeps and has not been awake since the last look.

        At the first look that is taken for granted of one that sleeps with the same stack pointer.
        """
        still = False
        for tid, pointer in self._expected.items():
            found, before = self._look(tid), self._seen.pop(tid, None)
            if found is None or found.sleep.rsp != pointer:
                continue
            self._seen[tid] = found
            still = still or before is None or before == found
        return still

    def _look(self, tid: int) -> _Asleep | None:
        count = procfs.timeslices_of(self._pid, tid)  # before: what runs in between is awake
        sleep = procfs.sleep(self._pid, tid)
        return None if sleep is None or count is None else _Asleep(sleep, count)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the target can be cloned: a snapshot or a replica is to be no burden to it.

What a clone takes is what fork(2) takes: time in which the target stands still, about as much as it
has memory, and a copy of each page that the target or the child writes to while both are there.
"""

from __future__ import annotations

from hotpatch.linux import room
from hotpatch.quiescence.references import Survey

_FLOOR_NS, _NS_A_MB, _NS_AN_AREA = 500_000, 35_000, 8_000  # of fork(2), on a slow machine
_MARGIN = 16 << 20


class TooDear(Exception):
    """The target should not be cloned; says why."""


def expect_affordable(pid: int, survey: Survey, limit_ns: int | None) -> None:
    """Raise TooDear for a process that can't be cloned, or not within `limit_ns` of standing still.

    It would be the target that is killed for want of memory.
    """
    if survey.handled_by_others:
        raise TooDear("the target handles page faults itself (userfaultfd)")
    expected = _FLOOR_NS + len(survey.private) * _NS_AN_AREA
    expected += survey.small_pages * _NS_A_MB >> 20
    if limit_ns is not None and expected > limit_ns:
        raise TooDear(
            f"for its {survey.small_pages >> 20} MB the target would have to be held for "
            f"about {-(-expected // 1_000_000)} ms (--max-pause may allow it)"
        )
    left = room.memory_left(pid)
    if survey.size + _MARGIN > left:
        raise TooDear(
            f"a clone of its {survey.size >> 20} MB might take all of the {left >> 20} MB "
            "of memory that are left"
        )

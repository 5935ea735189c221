# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sleeps inside forbidden code: a look that stops nobody.

The kernel tells where a sleeping thread is and where its stack is (proc(5), /proc/PID/syscall), and
its stack can be read while it sleeps. Its other registers are not known, so it counts only if its
stack can be unwound to the outermost frame without them, and if it has not moved meanwhile.
What this finds is a reason not to stop anybody yet, never one to go ahead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from hotpatch.linux import procfs
from hotpatch.linux.memory import Buffer, Memory

if TYPE_CHECKING:
    from hotpatch.quiescence.ranges import Ranges
    from hotpatch.quiescence.stacks import StackMap
    from hotpatch.quiescence.unwind import Stack

_MOST = 32 << 10  # of a stack: its innermost frames


def asleep_inside(
    memory: Memory,
    sleeps: Mapping[int, procfs.Sleep],
    stacks: StackMap,
    ranges: Ranges,
    unwind: Callable[[procfs.Sleep], Stack],
) -> dict[int, Stack]:
    """Return the stacks of those sleeping threads that are inside of `ranges` for sure, by thread.

    `sleeps` are what threads were seen to sleep in a moment ago.
    """
    suspects = _suspects(memory, sleeps, stacks, ranges)
    found = {}
    for tid in suspects:
        stack = unwind(sleeps[tid])
        inside = any(ranges.find(frame.pc) is not None for frame in stack.frames)
        if stack.complete and inside and procfs.sleep(memory.pid, tid) == sleeps[tid]:
            found[tid] = stack
    return found


def _suspects(
    memory: Memory, sleeps: Mapping[int, procfs.Sleep], stacks: StackMap, ranges: Ranges
) -> list[int]:
    """Return the threads with a word near the end of their stacks that points into `ranges`."""
    tids, pieces = [], []
    for tid, sleep in sleeps.items():
        extent = stacks.extent(sleep.rsp, 0)
        if extent is not None:
            tids.append(tid)
            pieces.append((sleep.rsp & -8, min(_MOST, extent[1] - (sleep.rsp & -8))))
    ends = list(accumulate((size for _, size in pieces), initial=0))
    buffer = Buffer(max(ends[-1], 8), ranges.lane)
    if memory.read_many(pieces, buffer) < ends[-1]:
        return []  # a stack was unmapped
    hits = ranges.search_buffer(buffer, ends[-1])
    return list(dict.fromkeys(tids[bisect_right(ends, at) - 1] for at, _ in hits))

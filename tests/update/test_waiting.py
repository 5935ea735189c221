# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sleeps in the way is looked at without a stop."""

from __future__ import annotations

import hotpatch
from hotpatch.linux.sleepers import Sleepers
from tests.support.proc import status_field
from tests.support.programs import patch, running
from tests.update.judging import expect_answer, refused, untouched


def switches(pid: int) -> list[int]:
    """How often each thread has gone off its processor by itself."""
    return [int(count) for count in status_field(pid, "voluntary_ctxt_switches")]


def test_a_thread_that_sleeps_inside_is_not_stopped_again_and_again() -> None:
    with running("inside", "asleep") as program:
        program.ask("enter")
        before = switches(program.pid)
        with untouched(program), refused("compute", error=hotpatch.Busy) as caught:
            hotpatch.apply(program.pid, patch("compute"), timeout=1)
        assert caught.value.attempts > 12
        asleep = min(now - b for now, b in zip(switches(program.pid), before, strict=True))
        assert asleep < 18  # two for each stop, of the few at first and at the end
        assert program.ask("leave")["result"] == 1
        hotpatch.apply(program.pid, patch("compute"))
        expect_answer(program, 1)


def test_sleepers_are_still_there_until_they_move() -> None:
    with running("inside", "asleep") as program:
        program.ask("enter")
        (blocker,) = [t for t in hotpatch.stacks(program.pid, ["compute"]).threads if t.blocks]
        with open(f"/proc/{program.pid}/task/{blocker.tid}/syscall", encoding="ascii") as file:
            pointer = int(file.read().split()[7], 16)
        sleepers = Sleepers(program.pid)
        assert not sleepers.still_there()
        sleepers.expect({blocker.tid: pointer})
        assert [sleepers.still_there() for _ in range(3)] == [True, True, True]
        program.ask("leave")
        program.ask("enter")  # it sleeps at the same place, but has been awake
        assert not sleepers.still_there()
        sleepers.expect({blocker.tid: pointer + 8})
        assert not sleepers.still_there()
        program.ask("leave")


def test_a_function_that_a_loop_calls_is_waited_for() -> None:
    """Its caller's loop is the main loop; it has none, or one within that."""
    with running("inside", "asleep") as program:
        program.ask("enter")
        with refused("stayed in compute", error=hotpatch.Busy):
            hotpatch.apply(program.pid, patch("compute"), timeout=0.5)
        program.ask("leave")

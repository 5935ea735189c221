# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspended coroutines: no thread runs on their stacks, but one will.

`untouched` looks at the progress of all threads, before and after.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import hotpatch
from hotpatch import Progress
from hotpatch.quiescence.coroutines import Coroutines
from tests.support.compiled import CompileShared
from tests.support.programs import Program, patch, running
from tests.update.judging import expect_answer, refused, regions, untouched

SHORT = 0.2
LONGER = 2  # where a thread has to be told from a coroutine on its own stack first
LONG = 60
ORIGINAL_PLUS_TEN = """
#include <hotpatch.h>
int compute(int depth) { return HOTPATCH_ORIGINAL(compute)(depth) + 10; }
HOTPATCH_REPLACE(compute);
"""

switches = pytest.mark.parametrize("switch", ["ucontext", "assembly", "setjmp"])
stacks = pytest.mark.parametrize("stacks", ["static", "heap", "mapped", "local"])


def expect_blocked(program: Program, count: int = 1, timeout: float = SHORT) -> hotpatch.Busy:
    """Check that suspended coroutines keep a patch away, and that all goes on as before."""
    with (
        untouched(program),
        refused("suspended coroutine", "compute", "resume", error=hotpatch.Busy) as caught,
    ):
        hotpatch.apply(program.pid, patch("compute"), timeout=timeout)
    assert isinstance(caught.value, hotpatch.Busy)
    assert len(caught.value.blockers) == count
    return caught.value


@switches
@stacks
def test_one_inside_is_named_and_waited_for(switch: str, stacks: str) -> None:
    with running("coroutines", switch, stacks) as program:
        assert program.ask("suspend")["suspended"] == 1
        timeout = LONGER if stacks == "local" else SHORT
        (blocker,) = expect_blocked(program, timeout=timeout).blockers
        assert (blocker.tid, blocker.function) == (0, "compute")
        assert blocker.syscall.startswith("suspended coroutine, its stack at 0x")
        inner = [number for number, frame in enumerate(blocker.frames) if "compute+" in frame]
        assert len(inner) == 3 and "coroutines.c:" in blocker.frames[inner[0]]
        assert "body+" in blocker.frames[inner[-1] + 1]

        reply = program.ask("step")
        assert (reply["suspended"], reply["returned"], reply["result"]) == (0, 1, 1)
        hotpatch.apply(program.pid, patch("compute"), timeout=LONG)
        program.ask("finish")
        assert program.ask("suspend")["result"] == 1 + 2
        expect_answer(program, 1)


@switches
@stacks
def test_one_that_has_finished_is_not_waited_for(switch: str, stacks: str) -> None:
    """Its stack is as it was, and so is what was saved when it was inside."""
    with running("coroutines", switch, stacks) as program:
        program.ask("suspend")
        program.ask("finish")
        hotpatch.apply(program.pid, patch("compute"), timeout=LONG)
        assert program.ask("suspend")["result"] == 1 + 2


@switches
@pytest.mark.parametrize("stacks", ["heap", "mapped"])
def test_a_hundred(switch: str, stacks: str) -> None:
    with running("coroutines", switch, stacks, "100") as program:
        assert program.ask("suspend")["suspended"] == 100
        blockers = expect_blocked(program, 100).blockers
        assert len({blocker.syscall for blocker in blockers}) == 100
        assert program.ask("step")["result"] == 100
        hotpatch.apply(program.pid, patch("compute"), timeout=LONG)
        program.ask("finish")
        assert program.ask("suspend")["result"] == 100 + 200
        expect_answer(program, 1)


@switches
def test_it_is_applied_as_soon_as_the_coroutine_is_outside(switch: str) -> None:
    seen: list[Progress] = []
    with running("coroutines", switch, "mapped", "3") as program:
        program.ask("suspend")

        def resume(progress: Progress) -> None:
            seen.append(progress)
            if len(seen) == 3:
                program.ask("step")

        result = hotpatch.apply(program.pid, patch("compute"), timeout=LONG, on_progress=resume)
        assert result.attempts > 3
        assert seen[0].blockers == ("compute",)
        assert program.ask("finish")["result"] == 3


@switches
def test_one_inside_the_new_code_blocks_the_revert(
    switch: str, compile_shared: CompileShared
) -> None:
    path = str(compile_shared(ORIGINAL_PLUS_TEN))
    with running("coroutines", switch, "mapped") as program:
        hotpatch.apply(program.pid, path)
        program.ask("suspend")
        with refused("suspended coroutine", "new code of compute", error=hotpatch.Busy):
            hotpatch.revert(program.pid, timeout=SHORT)
        (entry,) = hotpatch.patches(program.pid)
        assert entry.switch == 1
        assert program.ask("step")["result"] == 1 + 3 * 10
        hotpatch.revert(program.pid, timeout=LONG)
        program.ask("finish")
        program.ask("suspend")
        assert program.ask("step")["result"] == 1 + 3 * 10 + 1
        expect_answer(program, 1)


@switches
@pytest.mark.parametrize("stacks", ["static", "heap", "mapped"])
def test_a_thread_asleep_on_the_stack_of_one(switch: str, stacks: str) -> None:
    """It was inside when it was suspended last, and its saved stack pointer is still that.

    The thread itself may be in the way, as its own words are.
    """
    with running("coroutines", switch, stacks) as program:
        program.ask("suspend")
        assert program.ask("sleep")["returned"] == 1
        try:
            hotpatch.apply(program.pid, patch("compute"), timeout=LONGER)
        except hotpatch.Busy as busy:
            assert all(blocker.tid for blocker in busy.blockers)
        program.ask("wake")
        hotpatch.apply(program.pid, patch("answer_2"), timeout=LONG)
        expect_answer(program, 2)


def test_one_whose_context_is_an_object_of_the_program() -> None:
    """The return address is saved there as well, and there are pointers to right below it."""
    with running("inside", "coroutine") as program:
        program.ask("enter")
        with refused("suspended coroutine", error=hotpatch.Busy):
            hotpatch.apply(program.pid, patch("compute"), timeout=SHORT)
        assert program.ask("leave")["result"] == 1
        hotpatch.apply(program.pid, patch("compute"), timeout=LONG)
        expect_answer(program, 1)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called of that which looks through a target's memory."""
    calls: list[str] = []

    def note(name: str) -> None:
        original: Callable[..., object] = getattr(Coroutines, name)

        def noted(*arguments: object) -> object:
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(Coroutines, name, noted)

    note("look")
    note("in_the_way")
    return calls


@pytest.mark.parametrize(
    "command",
    [["threads", "10"], ["inside", "altstack"], ["simple-static"], ["simple-nopie"], ["mallocs"]],
    ids=lambda command: command[0],
)
def test_a_program_without_is_not_looked_through(command: list[str], looked: list[str]) -> None:
    """No memory is searched, neither before a stop nor in one."""
    with running(*command) as program:
        name = "compute" if command[0] == "inside" else "answer_2"
        hotpatch.apply(program.pid, patch(name))
        hotpatch.revert(program.pid)
        assert regions(program.pid) == []
    uses_ucontext = command[0] == "inside"
    assert bool(looked) == uses_ucontext


def test_memory_beyond_what_is_searched_in_a_stop() -> None:
    """It is searched before the stop, and the result says so; --max-pause has it searched in it."""
    with running("coroutines", "ucontext", "heap", "1000") as program:
        program.ask("suspend")
        with refused("suspended coroutine", error=hotpatch.Busy) as caught:
            hotpatch.apply(program.pid, patch("compute"), timeout=SHORT)
        assert isinstance(caught.value, hotpatch.Busy)
        assert len(caught.value.blockers) > 900
        program.ask("step")
        result = hotpatch.apply(program.pid, patch("compute"), timeout=LONG)
        (warning,) = result.warnings
        assert "MB of the target's memory were searched for suspended coroutines only" in warning
        hotpatch.revert(program.pid, timeout=LONG)
        result = hotpatch.apply(program.pid, patch("compute"), timeout=LONG, max_pause_ms=2000)
        assert result.warnings == ()
        assert program.ask("finish")["result"] == 1000

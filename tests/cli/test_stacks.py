# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch stacks`: every thread, what it sleeps in and since when, and who is in the way."""

from __future__ import annotations

import time

import pytest

import hotpatch as library
from hotpatch.update.backtrace import ThreadStack
from tests.cli.running import hotpatch
from tests.support.programs import PROGRAMS, patch, running, wait_until


def test_every_thread_is_shown_down_to_its_start() -> None:
    with running("threads", "6") as program:
        found = hotpatch("stacks", "--json", program.pid).json
        assert (found["status"], found["pid"]) == ("ok", program.pid)
        assert found["pause_us"] > 0
        program.expect_progress()
        assert {t["tid"] for t in found["threads"]} == {program.pid, *program.ask()["tids"]}
        assert all(thread["complete"] for thread in found["threads"])
        for thread in found["threads"]:
            functions = [frame["function"] for frame in thread["frames"]]
            assert ("serve" if thread["tid"] == program.pid else "work") in functions
            assert thread["blocks"] == []
        assert program.ask()["eintr"] == 0


# After a stop the kernel goes on with some calls as restart_syscall. What they were is in the code
# of the C library, but not for those that are made by its syscall().
CALLS = {
    "nanosleep": {"clock_nanosleep"},
    "poll": {"poll"},
    "futex": {"futex", "restart_syscall"},
    "epoll_wait": {"epoll_wait", "epoll_pwait"},
}


@pytest.mark.parametrize("call", CALLS)
def test_what_a_thread_sleeps_in_and_since_when(call: str) -> None:
    """That is since the call began, or since the last stop of ours, which it went on after."""
    with running("threads", "3", "30000", call) as program:

        def sleepers() -> dict[int, ThreadStack]:
            threads = library.stacks(program.pid).threads
            return {t.tid: t for t in threads if t.syscall in CALLS[call]}

        wait_until(lambda: len(sleepers()) == 3, f"three threads in {call}")
        began = time.monotonic()
        sleepers()
        wait_until(lambda: time.monotonic() > began + 0.1, "a tenth of a second")
        known: list[float] = []

        def all_known() -> bool:  # of one that was moved to another processor it is not, at first
            known[:] = [ms for t in sleepers().values() if (ms := t.asleep_ms) is not None]
            return len(known) == 3

        wait_until(all_known, "since when they sleep")
        passed_ms = (time.monotonic() - began) * 1000
        assert all(0 < asleep_ms < passed_ms + 50 for asleep_ms in known)


def test_frames_in_a_function_are_marked() -> None:
    with running("inside", "asleep") as program:
        program.ask("enter")
        found = hotpatch("stacks", "--json", program.pid, "compute").json
        (thread,) = [t for t in found["threads"] if t["blocks"]]
        assert thread["blocks"] == ["compute"]
        assert thread["syscall"] == "read"
        assert "compute" in [frame["blocks"] for frame in thread["frames"]]
        text = hotpatch("stacks", program.pid, "compute").out
        assert text.count("<- blocks compute") == 1
        assert text.splitlines()[-1] == "compute: 1 thread in it"
        program.ask("leave")
        assert hotpatch("stacks", program.pid, "compute").out.endswith("no thread is in it\n")


def test_frames_have_the_line_that_they_are_in() -> None:
    """And the functions that were inlined there."""
    source = (PROGRAMS / "threads.c").read_text().splitlines()
    with running("threads", "1", "30000", "epoll_wait") as program:
        (thread,) = [t for t in library.stacks(program.pid).threads if t.tid != program.pid]
        (frame,) = [f.place for f in thread.frames if f.place.function == "work"]
        chain = [*frame.inlined, frame]
        assert [p.function for p in chain] in (
            ["sleep_in_epoll_wait", "sleep_and_answer", "work"],
            ["sleep_and_answer", "work"],
            ["sleep_in_nanosleep", "work"],
            ["work"],
        )
        assert {p.file.rpartition("/")[2] for p in chain} == {"threads.c"}
        assert "sleep" in source[chain[0].line - 1]
        text = hotpatch("stacks", program.pid).out
        after = [f.place for t in library.stacks(program.pid).threads for f in t.frames]
        lines = {frame.line, *(place.line for place in after if place.function == "work")}
        assert any(f"threads.c:{line}" in text for line in lines)


def test_functions_of_a_stripped_program_have_the_names_of_its_debug_file() -> None:
    with running("simple-debuglink") as program:
        for thread in library.stacks(program.pid).threads:
            expected = "serve" if thread.tid == program.pid else "work"
            (place,) = [f.place for f in thread.frames if f.place.function == expected]
            assert place.module == "simple-debuglink"
            assert 0 < place.offset < 0x200
            assert place.file.endswith("program.c" if expected == "serve" else "simple.c")


def test_frames_in_gates_and_patches_are_named() -> None:
    with running("simple") as program:
        library.apply(program.pid, patch("answer_2"))
        (thread,) = [t for t in library.stacks(program.pid).threads if t.tid == program.pid]
        assert thread.complete
        assert [f.place.function for f in thread.frames if f.place.module == "simple"]


def test_a_function_that_is_not_there() -> None:
    with running("simple") as program:
        done = hotpatch("stacks", "--json", program.pid, "no_such_function")
        assert (done.code, done.json["status"]) == (3, "refused")
        assert "no_such_function" in done.json["reason"]
        assert program.ask()["main_eintr"] == 0


def test_a_static_function_is_named_with_its_file() -> None:
    with running("threads", "2") as program:
        text = hotpatch("stacks", program.pid, "threads.c:work").out
        assert text.count("<- blocks threads.c:work") == 2
        done = hotpatch("stacks", program.pid, "other.c:work")
        assert done.code == 3


def test_wrong_usage_and_processes_that_are_not_there() -> None:
    assert hotpatch("stacks").code == 2
    assert hotpatch("stacks", 0x3FFFFF).code == 6

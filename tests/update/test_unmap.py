# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch gives its memory back as soon as nothing refers to it, and not before."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
from functools import partial

import pytest

import hotpatch
from hotpatch.arch import syscalls
from hotpatch.linux import room
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence import references
from hotpatch.update import cloning, programs, stage
from hotpatch.update.borrow import with_borrowed
from hotpatch.update.plan import Region, make_plan
from hotpatch.update.session import Options, Session
from tests.support.proc import descriptors
from tests.support.programs import executable, patch, running, started, wait_until
from tests.update.cycles import pairs
from tests.update.judging import expect_answer, regions
from tests.update.leftovers import (
    TOO_LOADED,
    children,
    code_without_file,
    complaints,
    expect_clean,
    revert_cleanly,
    state,
)

NO_RESERVE = 0x4000  # MAP_NORESERVE
STILL_MOVING = ("thread(s) stayed in", "vector register")


def why_kept(pid: int) -> str:
    """Revert, and say why the memory stays: where the pointer is, once it is caught in memory."""
    result = hotpatch.revert(pid)
    for _ in range(10):
        assert len(result.warnings) == 1, result.warnings
        if not any(words in result.warnings[0] for words in (*STILL_MOVING, TOO_LOADED)):
            break
        hotpatch.apply(pid, patch("answer_2"))
        result = hotpatch.revert(pid)
    return result.warnings[0]


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("heap", "[heap]"),
        ("shared", "/dev/zero"),
        ("dontfork", "anonymous memory"),
        ("wipeonfork", "anonymous memory"),
        ("hidden", "anonymous memory"),
        ("handler", "the handler of signal 12"),
        ("vast", "4 MB of shared memory"),
    ],
)
def test_kept_pointer_keeps_the_patch_until_it_is_dropped(kind: str, where: str) -> None:
    with running("keeper", kind) as program:
        hotpatch.apply(program.pid, patch("keeper"))
        assert program.ask("keep")["kept"] == "new"
        why = why_kept(program.pid)
        assert "keeper stays mapped" in why
        assert where in why
        program.expect_progress()
        expect_clean(program, header_count=1)
        program.ask("drop")
        if kind != "vast":
            hotpatch.apply(program.pid, patch("answer_2"))
            revert_cleanly(program)
        assert program.expect_progress()["broken"] == 0


def test_what_calls_left_on_a_stack_is_no_reference() -> None:
    with running("keeper") as program:
        hotpatch.apply(program.pid, patch("keeper"))
        program.ask("stain")
        revert_cleanly(program)
        program.expect_progress()


def test_fifty_pairs_leave_nothing() -> None:
    with running("mallocs") as program:
        before = descriptors(program.pid)
        pairs(program.pid, 49)
        hotpatch.apply(program.pid, patch("answer_2"))
        revert_cleanly(program)
        assert descriptors(program.pid) == before
        assert expect_answer(program, 1)["corrupted"] == 0


def test_a_thousand_threads() -> None:
    with running("threads", "1000") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        revert_cleanly(program)
        reply = program.expect_progress()
        assert (reply["eintr"], reply["early"]) == (0, 0)


def test_without_a_leader() -> None:
    with running("leaderless") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        revert_cleanly(program)
        program.expect_progress()


def test_in_a_pid_namespace_of_its_own() -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no pid namespace can be made here")
    with started([*unshare, executable("mallocs")]) as program:
        assert program.pid == 1
        (program.pid,) = children(program.process.pid)
        hotpatch.apply(program.pid, patch("answer_2"))
        revert_cleanly(program)
        program.expect_progress()


def test_target_that_may_not_clone_keeps_the_patch() -> None:
    with running("seccomp", "no-clone") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        (why,) = hotpatch.revert(program.pid).warnings
        assert "seccomp filter that forbids clone" in why
        expect_clean(program, header_count=1)
        expect_answer(program, 1)


def test_target_that_may_have_no_more_processes_keeps_the_patch() -> None:
    as_somebody = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"]
    if subprocess.run([*as_somebody, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root may start any number")
    limited = ["prlimit", "--nproc=3:3", executable("mallocs"), "2"]
    with started([*as_somebody, *limited]) as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        (why,) = hotpatch.revert(program.pid).warnings
        assert f"can't make a child ({os.strerror(errno.EAGAIN)})" in why
        expect_clean(program, header_count=1)
        expect_answer(program, 1)


def test_target_that_is_too_large_for_a_short_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("mallocs") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        with monkeypatch.context() as patched:
            patched.setattr(cloning, "_NS_A_MB", 10**10)
            (why,) = hotpatch.revert(program.pid).warnings
            assert "would have to be held for about" in why
            (why,) = hotpatch.apply(program.pid, patch("answer_3")).warnings
            assert "--max-pause" in why
        revert_cleanly(program)


def test_snapshot_never_takes_the_last_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("mallocs") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        with monkeypatch.context() as patched:
            patched.setattr(room, "memory_left", lambda _: 17 << 20)
            (why,) = hotpatch.revert(program.pid).warnings
            assert "might take all of the 17 MB of memory that are left" in why
        hotpatch.apply(program.pid, patch("answer_3"))
        revert_cleanly(program)


def test_snapshot_that_somebody_ends_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    search = references.search
    ended = []

    def end_first(memory: references.Memory, *arguments: object) -> list[references.Reference]:
        if memory.pid != program.pid and not ended:
            ended.append(memory.pid)
            os.kill(memory.pid, signal.SIGKILL)
        return search(memory, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(references, "search", end_first)
    with running("mallocs") as program:
        hotpatch.apply(program.pid, patch("answer_2"))
        revert_cleanly(program)
        assert ended


def test_remnant_goes_when_nothing_refers_to_it() -> None:
    """A region without a record: its patcher died between mapping it and writing the ledger."""
    with running("mallocs") as program:
        with Process(program.pid) as process:
            plan = make_plan(process, PatchFile.open(patch("answer_2")))
            (region,) = plan.regions
            furniture = stage._furniture(plan, region)
            act = partial(stage._map, process.memory, region, furniture)
            with_borrowed(Session(process, Options()), "stage", act)
        with hotpatch.Target(program.pid) as target:
            assert target.patches() == []
        expect_clean(program, header_count=1)
        assert complaints(hotpatch.apply(program.pid, patch("answer_3"))) == []
        revert_cleanly(program)


def map_executable(process: Process, region: Region, flags: int) -> None:
    """Have the target map a region, as staging does, and nothing else."""
    arguments = (region.address, region.size, 5, 0x22 | 0x100000 | flags, -1, 0)
    with_borrowed(
        Session(process, Options()),
        "stage",
        lambda borrowed: borrowed.syscall(syscalls.MMAP, *arguments),
    )


@pytest.mark.parametrize("marked", [True, False])
def test_remnant_without_a_header(marked: bool) -> None:
    """Its patcher died even before: nothing can have learnt of the region."""
    with running("mallocs") as program:
        with Process(program.pid) as process:
            (region,) = make_plan(process, PatchFile.open(patch("answer_2"))).regions
            map_executable(process, region, NO_RESERVE)
            if marked:
                process.memory.write(region.address, ledger.mark(region.size))
        assert code_without_file(program.pid) == [(region.address, region.address + region.size)]
        assert complaints(hotpatch.apply(program.pid, patch("answer_3"))) == []
        revert_cleanly(program)


@pytest.mark.parametrize("kind", ["with a reserve", "used", "of another size"])
def test_memory_that_only_looks_like_a_remnant_stays(kind: str) -> None:
    with running("mallocs") as program:
        with Process(program.pid) as process:
            (region,) = make_plan(process, PatchFile.open(patch("answer_2"))).regions
            if kind == "of another size":
                region = region._replace(size=region.size + 4096)
            map_executable(process, region, 0 if kind == "with a reserve" else NO_RESERVE)
            if kind == "used":
                process.memory.write(region.address + 8192, b"\x90")
        own = [(region.address, region.address + region.size)]
        hotpatch.apply(program.pid, patch("answer_3"))
        hotpatch.revert(program.pid)
        assert code_without_file(program.pid) == own
        assert expect_answer(program, 1)["corrupted"] == 0


def test_program_fits_where_destructors_are_called_from() -> None:
    with running("simple") as program, hotpatch.Target(program.pid) as target:
        region = target.plan(patch("simple_static")).regions[0]
        call = target.plan(patch("simple_static")).record.call[0]
        room = next(write for write in region.contents if write.address > call).address - call
        assert len(programs.program("snapshot.S", call, uses_fpu=False)[1]) <= room


def header(pid: int) -> int:
    """The address of the only patch."""
    (region,) = regions(pid)
    return region.start


def test_children_of_the_program_are_left_to_it() -> None:
    """Even one that says nothing at its end and has the pid that a header names."""
    with running("keeper") as program:
        hotpatch.apply(program.pid, patch("keeper"))
        program.ask("keep")
        hotpatch.revert(program.pid)
        child = program.ask("wait")["child"]
        wait_until(lambda: state(child) == "Z", "the program's child ends")
        with Process(program.pid) as process:
            at = header(program.pid) + ledger.CHILD_OFFSET
            process.memory.write(at, struct.pack("<I4xQ", child, 1))
        program.ask("drop")
        hotpatch.apply(program.pid, patch("answer_2"))
        hotpatch.revert(program.pid)
        assert children(program.pid) == [child]
        assert program.ask("reap")["status"] == 7

# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that can't be patched, and patchers that may not: said by what is in the way."""

from __future__ import annotations

import errno
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

import hotpatch
from tests.cli.running import started, wait_until_staged
from tests.support.proc import status_lines, threads
from tests.support.programs import Program, patch, running
from tests.update.judging import expect_answer, refused, regions, untouched
from tests.update.others import as_nobody, tracing, write_32_bit_program


def test_a_process_that_has_vanished() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for action in (hotpatch.apply, hotpatch.check):
        with refused(str(ended.pid), error=hotpatch.Gone):
            action(ended.pid, patch("answer_2"))
    with refused(str(ended.pid), error=hotpatch.Gone):
        hotpatch.revert(ended.pid)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31, 2**64])
def test_a_number_that_is_no_pid(pid: int) -> None:
    with refused(str(pid), error=hotpatch.Gone):
        hotpatch.apply(pid, patch("answer_2"))


def test_a_zombie() -> None:
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with refused(str(ended.pid), "ended", error=hotpatch.Gone):
            hotpatch.apply(ended.pid, patch("answer_2"))


def test_oneself() -> None:
    with refused("itself"):
        hotpatch.apply(os.getpid(), patch("answer_2"))


def test_a_thread_is_no_process() -> None:
    with running("threads", "2") as program:
        program.expect_progress()
        tid = next(tid for tid in threads(program.pid) if tid != program.pid)
        with untouched(program), refused(str(tid), f"name the process: {program.pid}"):
            hotpatch.apply(tid, patch("answer_2"))


def test_a_thread_of_the_kernel() -> None:
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    pids = [pid for pid in numbers if "Kthread:\t1" in status_lines(pid, pid)]
    if not pids:
        pytest.skip("none is to be seen here")
    with refused("kernel", str(pids[0])):
        hotpatch.apply(pids[0], patch("answer_2"))


def test_a_32_bit_program(tmp_path: Path) -> None:
    write_32_bit_program(tmp_path / "small")
    try:
        process = subprocess.Popen([tmp_path / "small"])
    except OSError as error:
        assert error.errno == errno.ENOEXEC
        pytest.skip("this kernel runs none")
    try:
        with refused("x86-64", "64-bit"):
            hotpatch.apply(process.pid, patch("answer_2"))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_traced_process(simple: Program) -> None:
    tids = threads(simple.pid)
    with tracing(*tids) as tracer, untouched(simple):
        with refused(f"traced by process {tracer}", error=hotpatch.Denied) as caught:
            hotpatch.apply(simple.pid, patch("answer_2"))
        assert caught.value.cause == "tracer"
    hotpatch.apply(simple.pid, patch("answer_2"))
    expect_answer(simple, 2)


def test_a_process_with_one_traced_thread(simple: Program) -> None:
    """Not its leader: that it is traced shows when all are to be stopped."""
    simple.expect_progress()
    tid = threads(simple.pid)[-1]
    with tracing(tid) as tracer:
        with refused(f"process {tracer}", error=hotpatch.Denied) as caught:
            hotpatch.apply(simple.pid, patch("answer_2"))
        assert caught.value.cause == "tracer"
        expect_answer(simple, 1)
    hotpatch.apply(simple.pid, patch("answer_2"))
    expect_answer(simple, 2)
    hotpatch.revert(simple.pid)
    assert regions(simple.pid) == []


def test_a_process_of_somebody_else(simple: Program) -> None:
    pid = simple.pid if os.geteuid() == 0 else 1
    with untouched(simple):
        for action in (hotpatch.apply, hotpatch.check):
            error = as_nobody(partial(action, pid, patch("answer_2")))
            assert (error["status"], error["cause"]) == ("denied", "capability"), error
            assert "uid 0" in error["reason"] and "CAP_SYS_PTRACE" in error["hint"]


def test_a_second_patcher_is_told_of_the_first() -> None:
    with running("inside", "asleep") as program:
        program.ask("enter")
        with started("apply", "--timeout", 60, program.pid, patch("compute")) as first:
            wait_until_staged(program)
            with refused("another hotpatch", f"pid {first.pid}", error=hotpatch.Denied):
                hotpatch.apply(program.pid, patch("answer_2"))
            with refused("another hotpatch", f"pid {first.pid}", error=hotpatch.Denied):
                hotpatch.revert(program.pid)
            assert program.ask("leave")["result"] == 1
            assert first.wait(60) == 0
        assert program.ask("enter")["result"] == 2
        hotpatch.apply(program.pid, patch("answer_2"))
        expect_answer(program, 2)

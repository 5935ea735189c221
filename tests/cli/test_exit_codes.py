# SPDX-License-Identifier: GPL-2.0-or-later
"""Each exit code, and the JSON object that goes with it, from a real process that calls for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.running import environment, hotpatch, hotpatch_finding_sleepers, regions
from tests.support.compiled import SharedObjects
from tests.support.programs import Program, executable, patch, read_line, running

TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
SEIZE = 0x4206
if libc.ptrace(SEIZE, int(sys.argv[1]), None, None):
    sys.exit("ptrace: errno %d" % ctypes.get_errno())
print("TRACING", flush=True)
sys.stdin.read()
"""

UNPRIVILEGED = """
import os, sys
import getopt, gettext, json  # what is read later may not be readable then
import hotpatch.cli.apply, hotpatch.cli.list, hotpatch.cli.report, hotpatch.cli.failure
import hotpatch.process.image, hotpatch.cli.main
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(hotpatch.cli.main.main())
"""


@pytest.fixture
def simple() -> Iterator[Program]:
    """A program whose answer is 1."""
    with running("simple") as program:
        yield program


def unprivileged(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user who may trace nobody else's processes."""
    return subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )


def somebody_elses(program: Program) -> int:
    """A process that belongs to somebody else than the one who runs `unprivileged`."""
    return program.pid if os.geteuid() == 0 else 1


def test_0_applied(simple: Program) -> None:
    done = hotpatch("apply", "--json", simple.pid, patch("answer_2"))
    assert (done.code, done.err) == (0, "")
    result = done.json
    assert result["status"] == "applied"
    assert result["pid"] == simple.pid
    assert result["patch"]["name"] == "answer_2"
    (function,) = result["functions"]
    assert function["name"] == "answer"
    assert function["module"] == executable("simple")
    assert int(function["old"], 16) != int(function["new"], 16)
    assert result["threads"] == 2
    assert result["attempts"] >= 1
    assert [stop["phase"] for stop in result["stops"]] == ["stage", "arm", "commit"]
    assert result["pause_us"] == max(stop["us"] for stop in result["stops"])
    assert result["elapsed_ms"] >= 0
    assert result["warnings"] == []
    assert simple.ask()["answer"] == 2
    simple.expect_progress()


def test_0_reverted(simple: Program) -> None:
    applied = hotpatch("apply", "--json", simple.pid, patch("answer_2")).json
    done = hotpatch("revert", "--json", simple.pid)
    assert (done.code, done.err) == (0, "")
    assert done.json["status"] == "reverted"
    assert done.json["patch"] == applied["patch"]
    (function,) = done.json["functions"]
    (before,) = applied["functions"]
    assert (function["old"], function["new"]) == (before["new"], before["old"])
    assert simple.ask()["answer"] == 1
    assert regions(simple.pid) == []


def test_0_ok(simple: Program) -> None:
    done = hotpatch("check", "--json", simple.pid, patch("answer_2"))
    assert (done.code, done.err) == (0, "")
    assert done.json["status"] == "ok"
    assert simple.ask()["answer"] == 1


def test_2_usage() -> None:
    done = hotpatch("apply", "--json", "1")
    assert done.code == 2
    assert done.json["status"] == "usage"
    assert done.json["reason"] in done.err


def test_3_refused(simple: Program) -> None:
    hotpatch("apply", simple.pid, patch("answer_2"))
    done = hotpatch("apply", "--json", simple.pid, patch("answer_2"))
    assert done.code == 3
    assert done.json["status"] == "refused"
    assert "applied already" in done.json["reason"]
    assert done.json["hint"]
    assert simple.ask()["answer"] == 2


def test_4_busy() -> None:
    with running("inside", "asleep") as program:
        tids = program.ask("enter")["tids"]
        arguments = ("apply", "--json", "--timeout", "0.1", program.pid, patch("compute"))
        done = hotpatch_finding_sleepers(*arguments)
        assert done.code == 4
        assert done.json["status"] == "busy"
        (blocker,) = done.json["blockers"]
        assert blocker["function"] == "compute"
        assert blocker["syscall"] == "read"
        assert any("compute" in frame for frame in blocker["frames"])
        assert blocker["tid"] not in (program.pid, *tids)
        assert regions(program.pid) == []
        assert program.ask("leave")["result"] == 1
        program.expect_progress()


def test_5_rolled_back(simple: Program, tmp_path_factory: pytest.TempPathFactory) -> None:
    crashing = SharedObjects(tmp_path_factory.mktemp("patch"))(
        """
        #include <hotpatch.h>
        int answer(void) { return 2; }
        HOTPATCH_REPLACE(answer);
        __attribute__((constructor)) static void start(void) { *(volatile int *)8 = 1; }
        """
    )
    done = hotpatch("apply", "--json", simple.pid, crashing)
    assert done.code == 5
    assert done.json["status"] == "rolled-back"
    assert "signal 11" in done.json["reason"]
    assert simple.ask()["answer"] == 1
    assert regions(simple.pid) == []
    simple.expect_progress()


def test_6_gone() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    done = hotpatch("apply", "--json", ended.pid, patch("answer_2"))
    assert done.code == 6
    assert done.json["status"] == "gone"
    assert done.json["pid"] == ended.pid


def test_7_denied_by_another_tracer(simple: Program) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRACER, str(simple.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as tracer:
        assert read_line(tracer) == "TRACING\n"
        done = hotpatch("apply", "--json", simple.pid, patch("answer_2"))
        tracer.communicate()
    assert done.code == 7
    assert done.json["status"] == "denied"
    assert done.json["cause"] == "tracer"
    assert f"process {tracer.pid}" in done.json["reason"]
    assert simple.ask()["answer"] == 1


def test_7_denied_by_privilege(simple: Program) -> None:
    pid = somebody_elses(simple)
    done = unprivileged("apply", "--json", pid, patch("answer_2"))
    assert done.returncode == 7, done.stderr
    assert '"status": "denied"' in done.stdout
    assert "CAP_SYS_PTRACE" in done.stderr


def test_processes_of_others_are_counted(simple: Program) -> None:
    hotpatch("apply", simple.pid, patch("answer_2"))
    done = unprivileged("list", "--json")
    assert done.returncode == 0, done.stderr
    assert "could not be looked at" in done.stderr
    listed = subprocess.run(
        [sys.executable, "-c", "import json, sys; print([p['pid'] for p in json.load(sys.stdin)])"],
        input=done.stdout,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (str(simple.pid) in listed.stdout) == (os.geteuid() != 0)

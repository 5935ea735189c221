# SPDX-License-Identifier: GPL-2.0-or-later
"""The time after an update: what fails in new code takes it out again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.build.project import Project, Running, build, run
from tests.support.programs import ROOT, executable, patch, running, started, wait_until

LATE = 500_000  # microseconds: more than the longest timeout, less than a probation
LIBC = ctypes.CDLL(None)

TARGET = """\
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static sigjmp_buf back;
int total;
static volatile int again;
static void handler(int number) { siglongjmp(back, number); }
__attribute__((noinline)) int work(int n) { total += n; return n * 2; }
static void *thread(void *n) { return (void *)(long)work((int)(long)n); }
int answer(int n, char *out)
{
    pthread_t other;
    void *result;
    switch (n) {
    case 1000: signal(SIGSEGV, handler); signal(SIGABRT, handler); return 1;
    case 1002: execl("/bin/cat", "cat", NULL); return 3;
    case 1003: _exit(0);
    case 1005: return *(volatile int *)8;
    case 1004:
        for (int i = 0; i < 200; i++) {
            pthread_create(&other, NULL, thread, (void *)1L);
            pthread_join(other, NULL);
        }
        return 4;
    }
    if ((again = sigsetjmp(back, 1)) != 0) {
        sprintf(out, "survived %d, %d", again, work(1));
        return 0;
    }
    if (n == 1001)
        raise(SIGSEGV);
    pthread_create(&other, NULL, thread, (void *)(long)n);
    pthread_join(other, &result);
    return (int)(long)result;
}
"""
PATCH = """\
#include <hotpatch.h>
#include <stdlib.h>
#include <string.h>
static volatile char *nowhere;
static int (*volatile no_code)(int) = (int (*)(int))64;
static int data[100];
__attribute__((noinline)) static int deep(int n) { volatile char more[4096]; more[0] = n;
    return n ? deep(n + 1) + more[0] : 0; }
int work(int n)
{
    if (n == 7) return *nowhere;
    if (n == 8) abort();
    if (n == 9) memset((char *)nowhere, 1, 1000);
    if (n == 10) return deep(1);
    if (n == 11) return no_code(n) + 1;
    if (n == 12) return ((int (*)(int))data)(n) + 1;
    return n * 3;
}
HOTPATCH_REPLACE(work);
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A program, and its patch."""
    directory = tmp_path_factory.mktemp("probation")
    made = Project(directory, {"a.c": TARGET}, link="-pthread")
    (directory / "fix.c").write_text(PATCH)
    code, fields = build(directory / "fix.c", "-o", directory / "fix.so")
    assert code == 0, fields
    return made


class Command:
    """`hotpatch apply --probation`, as it runs."""

    def __init__(self, program: Running, project: Project, *options: str) -> None:
        """Start it, and wait until the patch is in force and watched."""
        self._process = applying(program.pid, project.directory / "fix.so", *options)
        self.pid = self._process.pid

    def end(self) -> tuple[int, Any]:
        """Wait for its end; returns exit code and JSON object."""
        return finished(self._process)

    def kill(self, number: int) -> int:
        """Send it a signal and wait for its end."""
        self._process.send_signal(number)
        return self._process.wait()


def applying(pid: int, patch: Path, *options: str) -> subprocess.Popen[str]:
    """Start `hotpatch apply`, and wait until the patch is in force and its target watched."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hotpatch", "apply", "--json", *options, str(pid), patch],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    wait_until(lambda: process.poll() is not None or watched(pid), "it is watched")
    return process


def finished(process: subprocess.Popen[str]) -> tuple[int, Any]:
    """Wait for a command; returns exit code and JSON object."""
    import json  # noqa: PLC0415

    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return process.returncode, json.loads(out)


def watched(pid: int) -> bool:
    """Tell whether all threads are traced and none is stopped: not by a stop of an update."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        if "TracerPid:\t0\n" in status or "State:\tt" in status:
            return False
    return run("list", pid)[1]["patches"] != []


def test_passed(project: Project) -> None:
    with project.running() as program:
        command = Command(program, project, "--probation", "1")
        assert program.ask(5) == "15"
        assert program.ask(1004) == "4"  # threads come and go
        code, fields = command.end()
        assert (code, fields["status"]) == (0, "applied")
        assert program.ask(5) == "15"
        assert f"TracerPid:\t{0}\n" in Path(f"/proc/{program.pid}/status").read_text()
        program.revert()


@pytest.mark.parametrize(
    ("number", "name"),
    [(7, "SIGSEGV"), (8, "SIGABRT"), (9, "SIGSEGV"), (10, "SIGSEGV"), (11, "SIGSEGV"),
     (12, "SIGSEGV")],
)  # fmt: skip
def test_the_new_code_kills_the_process(number: int, name: str, project: Project) -> None:
    with project.running() as program:
        command = Command(program, project, "--probation", "60")
        program.send(number)
        code, fields = command.end()
        assert (code, fields["status"], fields["signal"]) == (6, "gone", name)
        assert "was taken out before the signal was delivered" in fields["hint"]
        assert any("work" in frame or "deep" in frame for frame in fields["frames"])
        assert program.status() == -signal.Signals[name]


@pytest.mark.parametrize(("number", "name"), [(7, "SIGSEGV"), (8, "SIGABRT"), (9, "SIGSEGV")])
def test_a_program_that_survives_runs_its_old_code(
    number: int, name: str, project: Project
) -> None:
    with project.running() as program:
        program.ask(1000)
        command = Command(program, project, "--probation", "60")
        assert program.ask(5) == "15"
        assert program.ask(number) == f"survived {signal.Signals[name].value}, 2"
        code, fields = command.end()
        assert (code, fields["status"], fields["signal"]) == (5, "rolled-back", name)
        assert "fix.c:" in " ".join(fields["frames"])
        assert program.ask(5) == "10"
        # What the handler left on the stack may keep its memory; it is off.
        assert {p["state"] for p in run("list", program.pid)[1]["patches"]} <= {"reverted"}


def test_signals_that_are_not_its_doing(project: Project) -> None:
    with project.running() as program:
        program.ask(1000)
        command = Command(program, project, "--probation", "1")
        assert program.ask(1001) == "survived 11, 3"
        code, fields = command.end()
        assert (code, fields["status"]) == (0, "applied")
        assert program.ask(5) == "15"


@pytest.mark.parametrize(("number", "how"), [(1003, "ended"), (1001, "killed by SIGSEGV")])
def test_the_process_ends_for_another_reason(number: int, how: str, project: Project) -> None:
    with project.running() as program:
        command = Command(program, project, "--probation", "60")
        program.send(number)
        code, fields = command.end()
        assert (code, fields["status"]) == (6, "gone")
        assert how in fields["reason"]


def test_another_program_is_begun(project: Project) -> None:
    with project.running() as program:
        command = Command(program, project, "--probation", "60")
        program.send(1002)
        code, fields = command.end()
        assert code == 0
        assert any("another program" in warning for warning in fields["warnings"])
        assert program.ask("still here") == "still here"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_patcher_ends(number: int, project: Project) -> None:
    """The patch stays, and nothing is traced."""
    with project.running() as program:
        command = Command(program, project, "--probation", "60")
        assert command.kill(number) != 0
        assert program.ask(5) == "15"
        assert program.ask(1004) == "4"
        assert "TracerPid:\t0\n" in Path(f"/proc/{program.pid}/status").read_text()
        program.revert()
        assert program.ask(5) == "10"


def test_the_first_process_of_a_container(project: Project) -> None:
    """A traced one is not ended by its own faults: it would come back to them for ever."""
    with project.running(under=["unshare", "--pid", "--fork", "--kill-child"]) as program:
        command = Command(program, project, "--probation", "60")
        program.send(7)
        code, fields = command.end()
        assert (code, fields["status"], fields["signal"]) == (6, "gone", "SIGSEGV")
        assert program.status() == -signal.SIGSEGV


def test_the_first_process_of_a_container_fails_elsewhere(project: Project) -> None:
    with project.running(under=["unshare", "--pid", "--fork", "--kill-child"]) as program:
        command = Command(program, project, "--probation", "60")
        program.send(1005)
        code, fields = command.end()
        assert (code, fields["status"]) == (6, "gone")
        assert "killed by SIGSEGV" in fields["reason"]
        assert program.status() == -signal.SIGSEGV


def test_a_health_command_is_no_more_urgent_than_its_caller(
    project: Project, tmp_path: Path
) -> None:
    with project.running() as program:
        health = f"nice > {tmp_path / 'nice'}"
        run(
            *("apply", "--probation", "0.2", "--health", health),
            *(program.pid, project.directory / "fix.so"),
        )
    assert int((tmp_path / "nice").read_text()) == os.getpriority(os.PRIO_PROCESS, 0)


def test_health_that_is_well(project: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with project.running() as program:
        code, fields = run(
            *("apply", "--probation", "1.5", "--health", f'echo "$HOTPATCH_PID" >> {log}'),
            *(program.pid, project.directory / "fix.so"),
        )
        assert (code, fields["status"]) == (0, "applied")
        lines = log.read_text().splitlines()
        assert len(lines) >= 2
        assert set(lines) == {str(program.pid)}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("echo bad; echo it is not well; exit 4", "exited with 4: it is not well"),
        ("kill -9 $$", "was killed by signal 9"),
        ("sleep 1000", "did not end within 5 s"),
    ],
)
def test_health_that_fails(command: str, said: str, project: Project) -> None:
    with project.running() as program:
        code, fields = run(
            *("apply", "--probation", "0.5" if "sleep" in command else "60", "--health", command),
            *(program.pid, project.directory / "fix.so"),
        )
        assert (code, fields["status"]) == (5, "rolled-back")
        assert said in fields["reason"]
        assert program.ask(5) == "10"
        assert run("list", program.pid)[1]["patches"] == []
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if command_of(p) == "sleep 1000"]


def command_of(path: Path) -> str:
    """The command line of a process."""
    try:
        return path.read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    except OSError:
        return ""


def test_signals_are_neither_lost_nor_doubled() -> None:
    """A program that counts its timer's signals and what its handler saw of them."""
    with running("timer") as program:
        program.ask()
        code, fields = run("apply", "--probation", "2", program.pid, patch("answer_original"))
        assert code == 0, fields
        found = program.ask()
        program.expect_progress()
    for row in (*found["timers"], *found["streams"]):
        assert (row["lost"], row["duplicated"]) == (0, 0), row
    assert found["waits_interrupted"] == 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGWINCH, signal.SIGCONT])
def test_signals_that_are_ignored_interrupt_nothing(number: signal.Signals) -> None:
    """They come more often than the calls end, which all end in their time.

    Not those with a timeout of their socket, as the kernel begins it anew; nor are there children,
    whose SIGCHLD may wake one thread and be taken by another (docs/safety.md).
    """
    with running("sleepers") as program:
        names = [c["call"] for c in program.ask()["calls"] if not c["coarse"]]
    names = [name for name in names if not name.startswith("wait")]
    ignoring = ["sh", "-c", 'trap "" USR1; exec "$@"', "sh", executable("sleepers"), *names]
    with started(ignoring) as program:
        command = applying(program.pid, patch("answer_original"), "--probation", "2")
        program.ask("reset")
        # One SIGCONT stops all that are traced.
        tids = [call["tid"] for call in program.ask()["calls"]]
        rounds = 0
        while command.poll() is None:
            for tid in tids[:1] if number == signal.SIGCONT else tids:
                LIBC.tgkill(program.pid, tid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.wait(0.01)
            rounds += 1
        code, fields = finished(command)
        assert code == 0, fields
        assert rounds > 20
        calls = program.ask()["calls"]
        program.expect_progress()
    assert [call for call in calls if call["eintr"] or call["wrong"] or call["early_us"]] == []
    assert {call["call"]: call["late_us_max"] for call in calls if call["late_us_max"] > LATE} == {}


@pytest.mark.parametrize(
    "options",
    [
        ["--health", "true", "1", "x.so"],
        ["--probation", "5", "--all-of", "/bin/true", "x.so"],
        ["--probation", "soon", "1", "x.so"],
    ],
)
def test_wrong_usage(options: list[str]) -> None:
    assert run("apply", *options)[0] == 2


def test_the_library_leaves_how_a_child_ended_to_its_parent(project: Project) -> None:
    import hotpatch  # noqa: PLC0415

    with project.running() as program:
        sent = []

        def fail(progress: hotpatch.Progress) -> None:
            if progress.phase == "probation" and not sent and watched(program.pid):
                sent.append(program.send(7))

        with pytest.raises(hotpatch.Gone):
            hotpatch.apply(
                program.pid, project.directory / "fix.so", probation=60, on_progress=fail
            )
        assert program.status() == -signal.SIGSEGV


def test_the_library(project: Project) -> None:
    import hotpatch  # noqa: PLC0415

    with project.running() as program:
        seen = []
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        result = hotpatch.apply(
            program.pid, project.directory / "fix.so", probation=0.3, health="true",
            on_progress=seen.append,
        )  # fmt: skip
        assert result.status == "applied"
        assert {progress.phase for progress in seen} >= {"probation"}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        with pytest.raises(hotpatch.Refused):
            hotpatch.apply(program.pid, project.directory / "fix.so", probation=0.3)
        assert os.path.exists(f"/proc/{program.pid}")  # noqa: PTH110

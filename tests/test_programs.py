# SPDX-License-Identifier: GPL-2.0-or-later
"""
The judges are judged: alone, every test program finds no fault; those made on purpose, it finds.
"""

from __future__ import annotations

import json
import subprocess
from shutil import which
from typing import Any

import pytest

from tests.support.proc import descriptors, maps, status_field, threads
from tests.support.programs import Program, executable, floor, running, tool, wait_until

Reply = dict[str, Any]


def run(*command: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command that is to end with this status."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done
    return done


def meddle(program: Program, what: str, *value: str) -> None:
    """Harm the program's first worker."""
    run(tool("meddle"), what, *value, str(program.ask()["tids"][0]))


def faults(reply: Reply) -> Reply:
    """The fields that tell of faults, where they do."""
    names = (
        "mismatches",
        "corrupted",
        "mixed",
        "failed",
        "wrong",
        "unreaped",
        "wrong_status",
        "waits_interrupted",
    )
    found = {name: reply[name] for name in names if reply.get(name)}
    for entry in reply.get("timers", []) + reply.get("streams", []):
        found |= {f"{entry['name']}: {name}": entry[name] for name in ("lost", "duplicated")}
    for call in reply.get("calls", []):
        found |= {f"{call['call']}: {name}": call[name] for name in ("eintr", "wrong", "early_us")}
    found["main_eintr"] = reply["main_eintr"]
    return {name: value for name, value in found.items() if value}


QUIET: dict[str, list[str]] = {
    "registers": [],
    "sleepers": [],
    "mallocs": [],
    "threads": ["20", "50"],
    "timer": [],
    "sigchld": [],
    "many": [],
    "churn": [],
    "leaderless": [],
    "vforker": ["20"],
    "entry": [],
    "rseq": [],
    "forker": [],
    "deep": ["20", "50", "20", "2"],
    "busy": ["2", "calling"],
    "crowd": ["4", "nested", "1000"],
    "loaders": [],
    "tls": [],
    "simple": [],
    "simple-nopie": [],
    "simple-static": [],
    "simple-static-pie": [],
    "simple-debuglink": [],
    "simple-dynsym": [],
    **({"simple-musl": [], "simple-musl-static": []} if which("musl-gcc") else {}),
}


@pytest.mark.parametrize("name", QUIET)
def test_alone_all_threads_work_and_nothing_is_wrong(name: str) -> None:
    with running(name, *QUIET[name]) as program:
        reply = program.expect_progress()
        assert faults(reply) == {}
        assert reply["answer"] == 1
        assert set(reply["answers"]) == {1}
        if name != "leaderless":
            assert program.quit() == 0


@pytest.mark.parametrize("name", ["allow", "kill-mmap", "errno-exec", "no-memfd", "strict"])
def test_a_program_lives_under_its_seccomp_filter(name: str) -> None:
    with running("seccomp", name) as program:
        assert program.expect_progress()["filter"] == name
        assert set(status_field(program.pid, "Seccomp")) == {"2"}


def test_registers_has_every_kind_of_state() -> None:
    with running("registers") as program:
        reply = program.expect_progress()
        assert reply["xsave_components"] & 0b11 == 0b11  # x87 and SSE at the least
        assert "context" in reply["kinds"]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("general", ["general"]),
        ("general-asleep", ["general"]),
        ("flags", ["flags"]),
        ("xsave", ["xsave", "24"]),  # MXCSR
        ("xsave", ["xsave", "33"]),  # st0
        ("xsave", ["xsave", "415"]),  # xmm15
        ("xsave", ["xsave", "831"]),  # the upper half of ymm15
        ("xsave-asleep", ["xsave", "160"]),  # xmm0
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_registers_notices_a_change(kind: str, what: list[str]) -> None:
    with running("registers", kind) as program:
        program.expect_progress()

        def noticed() -> bool:
            meddle(program, *what)  # a thread between two loops has nothing to lose: again then
            program.expect_progress()
            return bool(program.ask()["mismatches"])

        wait_until(noticed, f"{what} noticed by {kind}")


def test_sleepers_notices_what_the_kernel_does_to_stopped_calls() -> None:
    with running("sleepers") as program:
        program.expect_progress()
        run(floor(), "--rounds", "4", "--gap", "30", str(program.pid))
        interrupted = {call["call"] for call in program.ask()["calls"] if call["eintr"]}
        assert {"epoll_wait", "sigtimedwait", "semtimedop", "recv_timeout"} <= interrupted
        assert not {"nanosleep", "poll", "futex_wait", "read", "flock"} & interrupted


def test_sleepers_counts_from_zero_after_reset() -> None:
    with running("sleepers", "epoll_wait") as program:
        wait_until(lambda: program.ask()["calls"][0]["loops"] > 0, "a loop")
        run(floor(), "--rounds", "3", str(program.pid))
        assert faults(program.ask())
        program.ask("reset")
        assert faults(program.ask()) == {}


@pytest.mark.parametrize("worker", ["timers", "streams"])
def test_timer_notices_a_lost_signal(worker: str) -> None:
    with running("timer") as program:
        reply = program.expect_progress()
        thread = reply["tids"][0 if worker == "timers" else 4]
        number = 34 if worker == "timers" else 37  # SIGRTMIN is 34 with glibc
        run(tool("meddle"), "swallow", str(number), str(thread))
        wait_until(lambda: program.ask()[worker][0]["lost"] >= 1, "the loss noticed")


def test_many_functions_answer_as_one() -> None:
    with running("many", "40") as program:
        reply = program.expect_progress()
        assert (reply["old"], reply["new"], reply["switches"]) == (40, 0, [0, 0])


def test_entry_gives_expected_results() -> None:
    with running("entry") as program:
        reply = program.ask()
        assert set(reply["results"].values()) == {1}
        assert reply["results"].keys() == reply["patched"].keys()


def test_tls_is_of_each_thread() -> None:
    with running("tls") as program:
        values = program.expect_progress()["values"]
        assert values == [[n, 10 * n, 100 * n] for n in range(4)]


def test_the_leader_is_gone() -> None:
    with running("leaderless") as program:
        states = dict(zip(threads(program.pid), status_field(program.pid, "State"), strict=True))
        assert states[program.pid].startswith("Z")


def test_a_parent_sees_job_control_and_no_invisible_stop() -> None:
    with running("parent", executable("threads"), "3") as program:
        child = program.ask()["child"]
        run(floor(), "--rounds", "3", str(child))
        reply = program.ask("child ask")
        assert [reply[name] for name in ("sigchld", "stopped", "continued")] == [0, 0, 0]
        assert len(reply["reply"]["progress"]) == 3
        run("kill", "-STOP", str(child))
        wait_until(lambda: program.ask()["stopped"] == 1, "the stop")
        run("kill", "-CONT", str(child))
        wait_until(lambda: program.ask()["continued"] == 1, "the continuation")
        assert program.ask()["sigchld"] == 2


MODES = ["asleep", "spinning", "recursive", "signal", "altstack", "coroutine", "handler"]


@pytest.mark.parametrize("mode", MODES)
def test_inside_goes_in_and_out(mode: str) -> None:
    with running("inside", mode) as program:
        assert program.ask("enter")["inside"] == 1
        reply = program.ask("leave")
        assert (reply["inside"], reply["returned"], reply["result"]) == (0, 1, 1)


@pytest.mark.parametrize("stacks", ["static", "heap", "mapped", "local"])
@pytest.mark.parametrize("switch", ["ucontext", "assembly", "setjmp"])
def test_coroutines_go_in_and_out(switch: str, stacks: str) -> None:
    with running("coroutines", switch, stacks, "3") as program:
        assert program.ask("suspend")["suspended"] == 3
        reply = program.ask("step")
        assert (reply["suspended"], reply["returned"], reply["result"]) == (0, 3, 3)
        program.ask("finish")
        assert program.ask("suspend")["suspended"] == 3
        assert program.ask("sleep")["suspended"] == 2
        program.ask("wake")
        reply = program.ask("finish")
        assert (reply["suspended"], reply["returned"], reply["result"]) == (0, 6, 6)
        program.expect_progress()


@pytest.mark.parametrize("mode", ["busy", "entry"])
def test_inside_all_the_time(mode: str) -> None:
    with running("inside", mode) as program:
        wait_until(lambda: bool(program.ask()["returned"] > 5), "some rounds")
        reply = program.ask("leave")
        assert (reply["entered"], reply["result"]) == (reply["returned"], 1)


def killed_at(*arguments: str, status: int) -> Reply:
    """What killat says."""
    reply: Reply = json.loads(
        run(tool("killat"), *arguments, status=status).stderr.splitlines()[-1]
    )
    assert reply["status"] == status
    return reply


def test_killat_counts_and_passes_the_status_on() -> None:
    calls = killed_at("0", "--", "true", status=0)
    assert calls == {"calls": calls["calls"], "killed_at": None, "status": 0}
    assert calls["calls"] > 10
    assert killed_at("0", "sh", "-c", "exit 3", status=3)["killed_at"] is None
    assert killed_at("0", "sh", "-c", "kill -TERM $$", status=143)["killed_at"] is None


def test_killat_kills_before_or_after_the_call() -> None:
    write = ("--from", "write", "1", "--", "echo", "written")
    assert killed_at(*write, status=137)["killed_at"] == "write"
    assert run(tool("killat"), *write, status=137).stdout == ""
    assert run(tool("killat"), "--exit", *write, status=137).stdout == "written\n"


def test_killat_follows_children_and_threads() -> None:
    alone = killed_at("0", "sh", "-c", "exec true", status=0)["calls"]
    with_child = ("sh", "-c", "/bin/true; /bin/true; exec true")
    assert killed_at("0", *with_child, status=0)["calls"] > alone + 40
    assert killed_at(str(alone + 20), *with_child, status=137)["killed_at"]


def test_a_tracer_killed_at_any_call_leaves_its_target_running() -> None:
    with running("threads", "5", "20", "nanosleep", "futex") as program:
        command = [floor(), "--rounds", "1", "--gap", "0", str(program.pid)]
        calls = killed_at("--from", "ptrace", "0", *command, status=0)["calls"]
        for number in range(1, calls + 1):
            killed_at("--from", "ptrace", str(number), *command, status=137)
        assert set(status_field(program.pid, "TracerPid")) == {"0"}
        assert program.expect_progress()["eintr"] == 0


def test_floor_reports_its_pauses() -> None:
    with running("threads", "10") as program:
        reply = json.loads(run(floor(), "--rounds", "5", "--priority", str(program.pid)).stdout)
        assert (reply["rounds"], reply["threads"]) == (5, 11)
        assert 0 < reply["held_us"]["median"] <= reply["pause_us"]["max"]
        assert reply["bytes"] >= 10 * 16384
        program.expect_progress()


def test_proc_reads_maps_and_descriptors() -> None:
    with running("simple") as program:
        code = [m for m in maps(program.pid) if m.path.endswith("/simple") and "x" in m.permissions]
        assert len(code) == 1
        assert code[0].start < code[0].end
        assert {0, 1, 2} <= descriptors(program.pid).keys()

# SPDX-License-Identifier: GPL-2.0-or-later
"""The kill sweep: the patcher dies at every system call that it makes.

    python -m tests.sweeps.kill [--only apply-forty ...] [--first POINT]

For apply and revert, with 1 and with 41 functions (forty that must agree, and the one that calls
them), with functions that all threads are in at every instant (a drain), with state that is
carried over, and with a probation, the command is run again and again, and ended with SIGKILL at
the entry of its 1st, 2nd, 3rd ... system call, until it gets to its end alive. After each death

- every thread of the target gets on with its work, and none was interrupted;
- it answers wholly old or wholly new: the forty functions agree;
- the next apply succeeds, and the revert after it, and nothing of hotpatch is left mapped.

A run has two parts. From its start until it opens the target (pidfd_open) it can only be killed
as a whole program, which `killat` does: the cases called `start-...`. From then on the command
runs in a fork of this process, which has all modules loaded, and is traced by it.

Counts are printed; the exit status is 0 only if every point was survived.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple

import hotpatch
from hotpatch.cli.main import main as command_line
from hotpatch.linux import ptrace
from tests.support import programs
from tests.support.proc import maps
from tests.support.programs import ROOT, build, tool
from tests.targets.servers import Program

TARGETS = ROOT / "targets"
TIMEOUT = 60.0  # for quiescence: a busy machine may take a thread off within a function
PATIENCE = 5  # tries to give memory back, of a target that is not quiet long enough
ALIVE_IN_A_ROW = 3  # a run's number of calls varies a little: it waits by looking again
ENTRY = 1  # PTRACE_SYSCALL_INFO_ENTRY
GET_SYSCALL_INFO = 0x420E


class Case(NamedTuple):
    """What is swept: the command, the patch, the answers before and after it, more options."""

    command: str
    patch: str
    old: dict[str, str]
    new: dict[str, str]
    options: tuple[str, ...] = ()


ONE = ("forty-one", {"sum": "40", "f00": "1"}, {"sum": "1040", "f00": "1001"})
FORTY = ("forty-forty", {"sum": "40", "f00": "1"}, {"sum": "80", "f00": "2"})
CROWD = ("crowd", {"answers": "1"}, {"answers": "2"})
STATE = ("state", {"size": "24", "limit": "100"}, {"size": "32", "limit": "200"})
CASES = {
    f"{command}-{name}": Case(command, *what)
    for command in ("apply", "revert")
    for name, what in (("one", ONE), ("forty", FORTY), ("crowd", CROWD), ("state", STATE))
}
CASES["apply-probation"] = Case("apply", *ONE, ("--probation", "0.1", "--health", "true"))


class Forty:
    """The target, and what is asked of it."""

    rounds = 1  # after which each thread has told what it sees now

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pid = program.pid

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Forty]:
        """A target that is ready."""
        program = Program("forty", "--threads", "8", "--spinners", "1")
        try:
            program.ready()
            yield cls(program)
        finally:
            program.end()

    def ask(self) -> dict[str, str]:
        """Its answer, as a dictionary."""
        return dict(field.split("=") for field in self.program.ask("ask").split())

    def expect(self, *allowed: dict[str, str]) -> dict[str, str]:
        """Check that it answers as one of `allowed`, and that each thread works on."""
        for _ in range(self.rounds):
            answer = self.work_on()
        assert answer["mixed"] == "0", f"functions disagree: {answer}"
        assert any(a.items() <= answer.items() for a in allowed), f"neither old nor new: {answer}"
        return answer

    def work_on(self) -> dict[str, str]:
        """Wait until each thread has made progress; the answer by then."""
        before = self.ask()["progress"].split(",")
        deadline = time.monotonic() + 20
        while True:
            answer = self.ask()
            now = answer["progress"].split(",")
            if all(int(b) > int(a) for a, b in zip(before, now, strict=True)):
                return answer
            assert time.monotonic() < deadline, f"a thread stands still: {before} {now}"
            time.sleep(0.001)


class Crowd(Forty):
    """The same of a program whose threads are all in the replaced functions, all the time."""

    rounds = 2  # the last answer of a thread may be from before

    def __init__(self, program: programs.Program) -> None:
        self.crowd = program
        self.pid = program.pid

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Forty]:
        with programs.running("crowd", "16", "sleeping", "500") as program:
            yield cls(program)

    def ask(self) -> dict[str, str]:
        reply = self.crowd.ask()
        return {
            "progress": ",".join(map(str, reply["progress"])),
            "answers": ",".join(map(str, sorted(set(reply["answers"])))),
            "mixed": str(reply["mixed"]),
        }


class State(Crowd):
    """The same of a program whose data has another layout, with the patch; `mixed` is what it sums
    up wrongly."""

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Forty]:
        with programs.running("state", "1000", "4") as program:
            yield cls(program)

    def ask(self) -> dict[str, str]:
        reply = self.crowd.ask()
        return {
            "progress": ",".join(map(str, reply["progress"])),
            "size": str(reply["size"]),
            "limit": str(reply["limit"]),
            "mixed": str(reply["broken"]),
        }


TARGET = {"crowd": Crowd, "state": State}


def target_of(case: Case) -> AbstractContextManager[Forty]:
    return TARGET.get(case.patch, Forty).started()


def patch_path(case: Case) -> str:
    if case.patch in TARGET:
        return programs.patch(case.patch)
    return str(TARGETS / "build" / "patches" / f"{case.patch}.so")


def arguments(case: Case, pid: int) -> list[str]:
    """The command line of a case."""
    patch = [patch_path(case)] if case.command == "apply" else []
    return [case.command, "--timeout", str(TIMEOUT), *case.options, str(pid), *patch]


def sweep(case: Case, report: Callable[[str], None], first: int = 1) -> Counter[str]:
    """Kill the command of one case at each of its calls from the `first` on; return how it went."""
    counts: Counter[str] = Counter()
    with target_of(case) as target:
        judge(case, target, counts)
        counts.clear()
        mapped = suspicious(target.pid)
        alive, point = 0, first - 1
        while alive < ALIVE_IN_A_ROW:
            point += 1
            if case.command == "revert":
                hotpatch.apply(target.pid, patch_path(case), timeout=TIMEOUT)
            died = run_forked(arguments(case, target.pid), point)
            counts["deaths" if died else "survivals"] += 1
            alive = 0 if died else alive + 1
            judge(case, target, counts)
            left = suspicious(target.pid) - mapped
            if left:
                counts["unnamed mappings left"] += len(left)
                mapped |= left
            if point % 100 == 0:
                report(f"{point} points, {dict(counts)}")
        return counts


def run_forked(command: Sequence[str], point: int) -> bool:
    """Run the command in a fork, killed at its `point`-th call; return whether it died of that."""
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        os.read(ready, 1)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os._exit(command_line(list(command)))
    ptrace.seize(child, ptrace.O_TRACESYSGOOD | ptrace.O_TRACECLONE)
    ptrace.request(ptrace.INTERRUPT, child)
    os.write(go, b"g")
    os.close(go)
    os.close(ready)
    status = trace(child, point)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    return os.WIFSIGNALED(status)


def trace(child: int, point: int) -> int:
    """Let a child run to the entry of its `point`-th call and kill it there; its wait status.

    The calls of all of its threads count: one of them watches the target in a probation.
    """
    calls = 0
    info = bytearray(88)
    buffer = (ctypes.c_char * len(info)).from_buffer(info)
    while True:
        # The target is a child, too, but does not end.
        tid, status = os.waitpid(-1, ptrace.WALL)
        stop = ptrace.decode(status)
        if stop.kind == "ended":
            if tid == child:
                return status
            continue
        if stop.kind == "syscall":
            ptrace.request(GET_SYSCALL_INFO, tid, len(info), ctypes.addressof(buffer))
            calls += info[0] == ENTRY
            if calls == point:
                os.kill(child, signal.SIGKILL)
                continue  # the end of the first thread is reported when all others have ended
        passed_on = stop.signal if stop.kind == "signal" else 0
        with suppress(ProcessLookupError):
            ptrace.request(ptrace.SYSCALL, tid, None, passed_on)


def sweep_start(case: Case, report: Callable[[str], None]) -> Counter[str]:
    """Kill the whole program at each call before the one that opens the target."""
    counts: Counter[str] = Counter()
    with target_of(case) as target:
        if case.command == "revert":
            hotpatch.apply(target.pid, patch_path(case), timeout=TIMEOUT)
        mapped = maps(target.pid)
        killed_at = ""
        while killed_at != "pidfd_open":
            counts["deaths"] += 1
            killed_at = kill_start(arguments(case, target.pid), counts["deaths"])
            target.expect(case.new if case.command == "revert" else case.old)
            assert maps(target.pid) == mapped, "the target is not as it was"
            if counts["deaths"] % 500 == 0:
                report(f"{dict(counts)}")
        return counts


def kill_start(command: Sequence[str], point: int) -> str:
    """Run the program, killed at its `point`-th call; return which call that was."""
    whole = [tool("killat"), str(point), "--", sys.executable, "-m", "hotpatch", *command]
    done = subprocess.run(whole, capture_output=True, text=True, cwd=ROOT, check=False)
    return str(json.loads(done.stderr.splitlines()[-1])["killed_at"])


def judge(case: Case, target: Forty, counts: Counter[str]) -> None:
    """Look at the target after a death, and have the next patcher put it in order."""
    answer = target.expect(case.old, case.new)
    is_new = case.new.items() <= answer.items()
    counts["new" if is_new else "old"] += 1
    if is_new:
        hotpatch.revert(target.pid, timeout=TIMEOUT)
        target.expect(case.old)
    for _ in range(PATIENCE):
        hotpatch.apply(target.pid, patch_path(case), timeout=TIMEOUT)
        target.expect(case.new)
        result = hotpatch.revert(target.pid, timeout=TIMEOUT)
        target.expect(case.old)
        if not hotpatch.patches(target.pid):
            return
        why = " ".join(re.sub(r"\d+", "N", warning) for warning in result.warnings)
        counts[f"memory given back later ({why})"] += 1
    raise AssertionError(f"a patch is left behind: {result.warnings}")


def suspicious(pid: int) -> set[tuple[int, int, str]]:
    """The mappings that might be ours: executable and without a file, or with our name."""
    return {
        (m.start, m.end, m.path)
        for m in maps(pid)
        if "hotpatch" in m.path or (not m.path and "x" in m.permissions)
    }


def main() -> int:
    """Run the sweeps that were asked for."""
    names = [*CASES, *(f"start-{name}" for name in CASES if name.endswith("one"))]
    parser = argparse.ArgumentParser(description="Kill the patcher at every system call.")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--first", type=int, default=1, help="to go on with one that was ended")
    options = parser.parse_args()
    build(TARGETS)
    total: Counter[str] = Counter()
    for name in options.only:

        def report(text: str, name: str = name) -> None:
            print(f"  {name}: {text}", flush=True)

        began = time.monotonic()
        start = name.startswith("start-")
        case = CASES[name.removeprefix("start-")]
        counts = sweep_start(case, report) if start else sweep(case, report, options.first)
        total += counts
        print(f"{name}: {dict(counts)} in {time.monotonic() - began:.0f} s", flush=True)
    print(f"all: {dict(total)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

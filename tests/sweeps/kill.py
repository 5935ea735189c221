# SPDX-License-Identifier: GPL-2.0-or-later
"""The kill sweep: the patcher dies at every system call that it makes.

    python -m tests.sweeps.kill [--from CALL] [--only apply-forty ...]

For apply and revert, with 1 and with 41 functions (forty that must agree, and the one that calls
them), the command is run again and again under `killat`, which ends it with SIGKILL at its 1st, 2nd, 3rd
... system call, until it gets to its end alive. After each death

- every thread of the target gets on with its work, and none was interrupted;
- it answers wholly old or wholly new: the forty functions agree;
- the next apply succeeds, and the revert after it, and nothing of hotpatch is left mapped.

`--from` begins to count at the first call of that name, to leave out the interpreter's start.
Counts are printed; the exit status is 0 only if every point was survived.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hotpatch
from tests.support.proc import maps
from tests.support.programs import ROOT, build, tool
from tests.targets.servers import Program

TARGETS = ROOT / "targets"
ALIVE_IN_A_ROW = 3  # a run's number of calls varies a little: it waits by looking again


class Case(NamedTuple):
    """What is swept: the command, the patch, the answers before and after it."""

    command: str
    patch: str
    old: dict[str, str]
    new: dict[str, str]


ONE = ("forty-one", {"sum": "40", "f00": "1"}, {"sum": "1040", "f00": "1001"})
FORTY = ("forty-forty", {"sum": "40", "f00": "1"}, {"sum": "80", "f00": "2"})
CASES = {
    f"{command}-{name}": Case(command, *what)
    for command in ("apply", "revert")
    for name, what in (("one", ONE), ("forty", FORTY))
}


class Forty:
    """The target, and what is asked of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.pid = program.pid

    def ask(self) -> dict[str, str]:
        """Its answer, as a dictionary."""
        return dict(field.split("=") for field in self.program.ask("ask").split())

    def expect(self, *allowed: dict[str, str]) -> dict[str, str]:
        """Check that it answers as one of `allowed`, and that each thread works on."""
        before = self.ask()["progress"].split(",")
        deadline = time.monotonic() + 20
        while True:
            answer = self.ask()
            now = answer["progress"].split(",")
            if all(int(b) > int(a) for a, b in zip(before, now, strict=True)):
                break
            assert time.monotonic() < deadline, f"a thread stands still: {before} {now}"
            time.sleep(0.001)
        assert answer["mixed"] == "0", f"functions disagree: {answer}"
        assert any(a.items() <= answer.items() for a in allowed), f"neither old nor new: {answer}"
        return answer


class Closing:
    """Ends a program when the sweep is over, whatever came of it."""

    def __init__(self, program: Program) -> None:
        self.close = program.end


def patch_path(case: Case) -> str:
    return str(TARGETS / "build" / "patches" / f"{case.patch}.so")


def sweep(case: Case, start: str | None, report: Callable[[str], None]) -> Counter[str]:
    """Kill the command of one case at each of its calls; return how it went."""
    counts: Counter[str] = Counter()
    program = Program("forty", "--threads", "8")
    with contextlib.closing(Closing(program)):
        program.ready()
        target = Forty(program)
        mapped = clean_maps(target.pid)
        alive, point = 0, 0
        while alive < ALIVE_IN_A_ROW:
            point += 1
            if case.command == "revert":
                hotpatch.apply(target.pid, patch_path(case))
            died = run_killed(case, target.pid, point, start)
            counts["deaths" if died else "survivals"] += 1
            alive = 0 if died else alive + 1
            judge(case, target, counts)
            left = clean_maps(target.pid) - mapped
            if left:
                counts["unnamed mappings left"] += len(left)
                mapped |= left
            if point % 100 == 0:
                report(f"{point} points, {dict(counts)}")
    counts["points"] = point
    return counts


def run_killed(case: Case, pid: int, point: int, start: str | None) -> bool:
    """Run the command, killed at its `point`-th call; return whether it died of that."""
    command = [sys.executable, "-m", "hotpatch", case.command, str(pid)]
    if case.command == "apply":
        command.append(patch_path(case))
    killer = [tool("killat"), *(["--from", start] if start else []), str(point), "--", *command]
    done = subprocess.run(killer, capture_output=True, text=True, cwd=ROOT, check=False)
    outcome = json.loads(done.stderr.splitlines()[-1])
    if outcome["killed_at"] is None:
        assert outcome["status"] == 0, done.stderr
        return False
    return True


def judge(case: Case, target: Forty, counts: Counter[str]) -> None:
    """Look at the target after a death, and have the next patcher put it in order."""
    answer = target.expect(case.old, case.new)
    is_new = case.new.items() <= answer.items()
    counts["new" if is_new else "old"] += 1
    if is_new:
        hotpatch.revert(target.pid)
        target.expect(case.old)
    hotpatch.apply(target.pid, patch_path(case))
    target.expect(case.new)
    hotpatch.revert(target.pid)
    target.expect(case.old)
    with hotpatch.Target(target.pid) as opened:
        assert not opened.patches(), "a patch is left behind"


def clean_maps(pid: int) -> set[tuple[int, int, str]]:
    """The mappings that might be ours: executable and without a file, or with our name."""
    return {
        (m.start, m.end, m.path)
        for m in maps(pid)
        if "hotpatch" in m.path or (not m.path and "x" in m.permissions)
    }


def main() -> int:
    """Run the sweeps that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--from", dest="start", help="begin to count at the first call of this name"
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    build(TARGETS)
    total: Counter[str] = Counter()
    for name in options.only:
        began = time.monotonic()
        counts = sweep(
            CASES[name], options.start, lambda text, n=name: print(f"  {n}: {text}", flush=True)
        )
        total += counts
        seconds = time.monotonic() - began
        print(f"{name}: {dict(counts)} in {seconds:.0f} s", flush=True)
    print(f"all: {dict(total)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

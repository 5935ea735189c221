# SPDX-License-Identifier: GPL-2.0-or-later
"""How long `hotpatch build` takes for a diff that touches one source file of redis.

    python -m bench.build [CVE]

The server is Debian's, without one of its security patches (CVE-2026-92925, in cluster.c). `first`
is the first time for a source tree, which builds all of it; `other` the same tree with another
diff of that file; `again` the same diff once more. `compile` is what the program's own command
takes for that file alone; the last column how many times that.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.cves.servers import REDIS, Built, Case, cases, vulnerable
from tests.support.programs import ROOT

ROUNDS = 3


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def build(built: Built, diff: Path) -> None:
    """Run the command."""
    out, work = built.program.with_name("fix.so"), built.program.with_name("work")
    command = [sys.executable, "-m", "hotpatch", "build", "-q", "--source", built.source]
    command += ["--diff", diff, "--target", built.program, "-o", out, "--work", work]
    subprocess.run(
        [*command, "--build-command", REDIS.build],
        cwd=ROOT, env={**os.environ, **built.environment}, check=True,
    )  # fmt: skip


def another(case: Case, built: Built, number: int) -> Path:
    """Return the diff with one more line of code in it."""
    text = case.patch.read_text()
    line = next(line for line in text.splitlines() if line.startswith("+        ") and ";" in line)
    path = built.program.with_name(f"other{number}.diff")
    path.write_text(text.replace(line, line.replace(";", f"; (void){number};", 1), 1))
    return path


def main() -> None:
    """Measure, and print."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "CVE-2026-92925"
    case = next(case for case in cases(REDIS) if wanted in case.cves)
    with vulnerable(case) as built:
        rows = {"first": [timed(lambda: build(built, case.patch))]}
        diffs = [another(case, built, number) for number in range(ROUNDS)]
        rows["other"] = [timed(partial(build, built, diff)) for diff in diffs]
        rows["again"] = [timed(lambda: build(built, case.patch)) for _ in range(ROUNDS)]
        work = built.program.with_name("work")
        units = json.loads((work / "commands.json").read_text())["units"]
        (unit,) = [u for u in units if u[0] == "src/cluster.c"]
        _, directory, arguments, file, _ = unit
        command = [*arguments, "-c", file, "-o", os.devnull]
        rows["compile"] = [
            timed(lambda: subprocess.run(command, cwd=directory, check=True)) for _ in range(ROUNDS)
        ]
    plain = statistics.median(rows["compile"])
    for name, found in rows.items():
        seconds = statistics.median(found)
        print(f"{name:8} {seconds:6.2f} s {seconds / plain:6.1f}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the command as a user does: as a process of its own, with what it says kept apart.

done = hotpatch("apply", program.pid, patch("answer_2"))
assert done.code == 0
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from hotpatch.process.image import Process
from tests.support.proc import maps
from tests.support.programs import ROOT, Program, wait_until

TIMEOUT = 60.0  # seconds, for a loaded machine
COMMAND = [sys.executable, "-m", "hotpatch"]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which has to be one JSON text and nothing else."""
        return json.loads(self.out)


def environment(**changes: str) -> dict[str, str]:
    """The environment for a command: this checkout, no colours unless asked for."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def hotpatch(*arguments: object, **changes: str) -> Done:
    """Run the command to its end; `changes` are to its environment."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment(**changes),
        timeout=TIMEOUT,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(*arguments: object, **popen: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the command and leave it running; it is killed at the end, if need be."""
    popen.setdefault("stderr", subprocess.PIPE)
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        **popen,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def hotpatch_finding_sleepers(*arguments: object) -> Done:
    """Run a command that is to find a thread asleep; again, where it was just going to sleep.

    A thread that was stopped and let go is "running" until the kernel has put it to sleep again.
    """
    for _ in range(20):
        done = hotpatch(*arguments)
        if "running" not in done.out + done.err:
            break
    return done


def regions(pid: int) -> list[int]:
    """The addresses of all that hotpatch has in a process's memory."""
    return [mapping.start for mapping in maps(pid) if "/memfd:hotpatch-" in mapping.path]


def wait_until_staged(program: Program) -> None:
    """Wait until a patcher at work has put its patch into a program, the record last."""

    def recorded() -> bool:
        with Process(program.pid) as process:
            return bool(process.patches)

    wait_until(recorded, "the patch is staged")

# SPDX-License-Identifier: GPL-2.0-or-later
"""What nobody foresaw: exit code 1, no traceback unless asked for, and the target's state is said.

The defects are put into the library of the command's own process; the targets are real.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.running import COMMAND, TIMEOUT, Done, environment
from tests.support.programs import Program, patch, running

DEFECTIVE = """
import sys
import hotpatch.update.apply
from hotpatch.cli.main import main

def defect(*arguments):
    raise {error}

hotpatch.update.apply.{step} = defect
sys.exit(main())
"""


@pytest.fixture
def program() -> Iterator[Program]:
    """A target whose answer is 1."""
    with running("simple") as started:
        yield started


def defective(step: str, error: str, *arguments: object) -> Done:
    """Run the command with a step of an update that raises."""
    done = subprocess.run(
        [sys.executable, "-c", DEFECTIVE.format(step=step, error=error), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("step", "state", "answer"), [("arm", "old", 1), ("commit", "old", 1), ("settle", "new", 2)]
)
def test_the_state_is_read_from_the_target(
    program: Program, step: str, state: str, answer: int
) -> None:
    done = defective(step, "RuntimeError('oh')", "apply", "--json", program.pid, patch("answer_2"))
    assert done.code == 1
    assert done.json["status"] == "error"
    assert "RuntimeError: oh" in done.json["reason"]
    assert done.json["target"] == state
    assert "Traceback" not in done.err
    assert program.ask()["answer"] == answer
    program.expect_progress()


def test_the_traceback_is_there_for_the_asking(program: Program) -> None:
    done = defective("arm", "RuntimeError('oh')", "apply", "-v", program.pid, patch("answer_2"))
    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("OSError(24, 'Too many open files')", 1),
        ("MemoryError()", 1),
        ("PermissionError(1, 'Operation not permitted')", 7),
        ("ProcessLookupError(3, 'No such process')", 6),
        ("KeyboardInterrupt()", 130),
    ],
)
def test_the_codes_of_raw_errors(program: Program, error: str, code: int) -> None:
    done = defective("arm", error, "apply", "--json", program.pid, patch("answer_2"))
    assert done.code == code
    assert done.json["reason"]
    assert done.json["pid"] == program.pid
    assert program.ask()["answer"] == 1


def test_before_the_target_is_opened(program: Program) -> None:
    source = "import hotpatch.cli.targets as t; t.find = None; from hotpatch.cli.main import main"
    run = subprocess.run(
        [sys.executable, "-c", f"{source}; main()", "apply", str(program.pid), "no.so"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert "note: the target was not touched" in run.stderr


@pytest.mark.parametrize("limit", [3, 4, 5, 6, 7, 8])
def test_few_descriptors(program: Program, limit: int) -> None:
    """Wherever they run out, the target is wholly old or wholly new, as the exit code says."""
    line = f'ulimit -n {limit}; exec "$@"'
    command = [*COMMAND, "apply", str(program.pid), patch("answer_2")]
    done = subprocess.run(
        ["sh", "-c", line, "sh", *command],
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
    )
    assert program.expect_progress()["answer"] == (2 if done.returncode == 0 else 1)

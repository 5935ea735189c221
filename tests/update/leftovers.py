# SPDX-License-Identifier: GPL-2.0-or-later
"""What a reverted patch must not leave in a process: memory, children."""

from __future__ import annotations

from pathlib import Path

import hotpatch
from hotpatch.update.result import Result
from tests.support.proc import maps, threads
from tests.support.programs import Program, patch
from tests.update.judging import regions

TOO_LOADED = "can't be stopped (state R)"  # a thread had to wait for a processor for too long


def children(pid: int) -> list[int]:
    """The children of a process, zombies too."""
    found = []
    for tid in threads(pid):
        text = Path(f"/proc/{pid}/task/{tid}/children").read_text(encoding="ascii")
        found += [int(child) for child in text.split()]
    return found


def state(pid: int) -> str:
    """The state letter of a process, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def code_without_file(pid: int) -> list[tuple[int, int]]:
    """Executable memory of no file: hotpatch's, if its header is gone."""
    return [(m.start, m.end) for m in maps(pid) if "x" in m.permissions and not m.path]


def complaints(result: Result) -> list[str]:
    """The warnings of a result, but for what a loaded machine brings about."""
    return [warning for warning in result.warnings if TOO_LOADED not in warning]


def revert_cleanly(program: Program) -> None:
    """Revert, and check that nothing of hotpatch is left; on a loaded machine, at a later try."""
    result = hotpatch.revert(program.pid)
    assert complaints(result) == []
    for _ in range(10):
        if not result.warnings:
            break
        hotpatch.apply(program.pid, patch("answer_2"))
        result = hotpatch.revert(program.pid)
    expect_clean(program)


def expect_clean(program: Program, header_count: int = 0) -> None:
    """Check that nothing of hotpatch is left in a process: memory, children."""
    assert len(regions(program.pid)) == header_count
    assert children(program.pid) == []
    if not header_count:
        assert code_without_file(program.pid) == []

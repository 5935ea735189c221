# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions with odd entries (tests/programs/entries.S): patched, or refused with the instruction.

The patch of each calls the original and adds 1, so it tests the displaced instructions as well.
"""

from __future__ import annotations

import re

import pytest

import hotpatch
from tests.support.compiled import CompileShared
from tests.support.programs import PROGRAMS, patch, running
from tests.update.judging import refused, traces, untouched

NAMES = re.findall(r"^ +DO\((\w+), ", (PROGRAMS / "entries.h").read_text(), re.M)
REFUSED = {
    "page_end_1": ("cross a page boundary", "replace the functions that call it"),
    "branch_to_entry_late": ("loops back to its own entry", "without a call of the original"),
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_it_is_patched_and_reverted(name: str) -> None:
    with running("entry") as program:
        before = program.expect_progress()
        untouched_traces = traces(program.pid)
        hotpatch.apply(program.pid, patch(f"entry_{name}"))
        changed = {name: before["patched"][name]}
        assert program.expect_progress()["results"] == {**before["results"], **changed}
        hotpatch.revert(program.pid)
        assert program.expect_progress()["results"] == before["results"]
        assert traces(program.pid) == untouched_traces


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    with running("entry") as program:
        program.expect_progress()
        with untouched(program), refused(name, *REFUSED[name]):
            hotpatch.apply(program.pid, patch(f"entry_{name}"))


def test_a_loop_back_to_the_entry_is_patched_where_the_original_is_not_called(
    compile_shared: CompileShared,
) -> None:
    path = compile_shared(
        """
        #include <hotpatch.h>
        long branch_to_entry_late(long a) { return a + 40; }
        HOTPATCH_REPLACE(branch_to_entry_late);
        """
    )
    with running("entry") as program:
        results = program.expect_progress()["results"]
        hotpatch.apply(program.pid, str(path))
        patched = {**results, "branch_to_entry_late": 43}
        assert program.expect_progress()["results"] == patched
        hotpatch.revert(program.pid)
        assert program.expect_progress()["results"] == results

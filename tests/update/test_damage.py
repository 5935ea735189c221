# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged patches: each is refused, or its damage is where it does no harm. Nothing else happens.

The function that is patched is one that the target does not call meanwhile, and nothing of the
patch runs by itself: what a bit of its code means is no concern of ours.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

import hotpatch
from hotpatch.patch.file import PatchFile
from tests.support.compiled import CompileShared
from tests.support.programs import running
from tests.update.judging import regions, traces

FLIPS = int(os.environ.get("HOTPATCH_FLIPS", "2000"))
TEXT = """
#include <hotpatch.h>
extern int nanosleep(const void *, void *);
HOTPATCH_EXTERN_STATIC("inside.c", void, run_coroutine, (void));
int compute(int depth) {
    run_coroutine();
    return nanosleep(0, 0) + HOTPATCH_ORIGINAL(compute)(depth);
}
HOTPATCH_REPLACE(compute);
"""
SMALL = ("-O1", "-nostartfiles", "-s", "-Wl,-z,noseparate-code", "-Wl,--build-id")


@pytest.fixture(scope="module")
def content(compile_shared: CompileShared) -> bytes:
    """A small patch."""
    return compile_shared(TEXT, *SMALL).read_bytes()


def test_every_truncation_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "short.so"
    path.write_bytes(content)
    assert PatchFile.open(str(path)).replacements
    for size in range(len(content) - 1, -1, -1):
        os.truncate(path, size)
        with pytest.raises(hotpatch.Refused):
            PatchFile.open(str(path))


def test_truncations_leave_a_target_untouched(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "short.so"
    path.write_bytes(content)
    with running("inside", "asleep") as program, hotpatch.Target(program.pid) as target:
        program.expect_progress()
        before = traces(program.pid)
        for size in range(len(content) - 1, -1, -97):
            os.truncate(path, size)
            with pytest.raises(hotpatch.Refused):
                target.apply(str(path))
            assert traces(program.pid) == before
        program.expect_progress()


def test_flipped_bits_leave_a_target_untouched(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "flipped.so"
    chance = random.Random(4711)
    outcomes: Counter[str] = Counter()
    with running("inside", "asleep") as program, hotpatch.Target(program.pid) as target:
        program.expect_progress()
        before = traces(program.pid)
        for _ in range(FLIPS):
            bit = chance.randrange(8 * len(content))
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            outcome = "applied"
            try:
                target.apply(str(path))
                assert target.revert().warnings == ()
            except hotpatch.Refused:
                outcome = "refused"
            outcomes[outcome] += 1
            assert traces(program.pid) == before, (bit // 8, bit % 8, outcome)
        program.expect_progress()
        assert regions(program.pid) == []
        assert program.ask("enter")["inside"] == 1
        assert program.ask("leave")["result"] == 1
    assert outcomes["applied"] and outcomes["refused"], outcomes
    print(outcomes)

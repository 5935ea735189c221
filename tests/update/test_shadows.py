# SPDX-License-Identifier: GPL-2.0-or-later
"""Shadow variables: more members for the target's objects, whose layout stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hotpatch
from tests.support.compiled import CompileShared
from tests.support.programs import ROOT, Program, running
from tests.update.judging import refused

PATCH = """
#include <hotpatch.h>
#include "{root}/tests/programs/state.h"
enum {{ HITS = 1, MARK = 2 }};
extern struct entry_v1 *table[BUCKETS];

/* Each entry counts how often it was added up; a sum is wrong where a count is lost. */
long sum(int bucket)
{{
    long found = 0;
    for (struct entry_v1 *entry = table[bucket]; entry; entry = entry->next) {{
        long *hits = hotpatch_shadow_attach(entry, HITS, sizeof *hits);
        long *mark = hotpatch_shadow_find(entry, MARK);
        __atomic_fetch_add(hits, 1, __ATOMIC_RELAXED);
        found += entry->value + (mark && *mark == entry->key ? 0 : 1);
        if (entry->key % 7 == 0) {{
            hotpatch_shadow_attach(hits, HITS, 100);
            hotpatch_shadow_free(hits, HITS);
        }}
    }}
    return found;
}}
HOTPATCH_REPLACE(sum);

static int mark(void)
{{
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        for (struct entry_v1 *entry = table[bucket]; entry; entry = entry->next)
            *(long *)hotpatch_shadow_attach(entry, MARK, sizeof(long)) = entry->key;
    return {result};
}}
HOTPATCH_TRANSFER(mark);

static int count(void)
{{
    long entries = 0, hits = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        for (struct entry_v1 *entry = table[bucket]; entry; entry = entry->next) {{
            long *found = hotpatch_shadow_find(entry, HITS);
            entries += hotpatch_shadow_find(entry, MARK) != 0;
            hits += found ? *found : 0;
            if (entry->key % 2)
                hotpatch_shadow_free(entry, MARK);
        }}
    hotpatch_say("%ld marked, hits %s", entries, hits > 0 ? "counted" : "lost");
    return 0;
}}
HOTPATCH_REVERSE(count);
"""


@pytest.fixture
def state() -> Iterator[Program]:
    with running("state", "200", "4") as program:
        yield program


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_they_are_found_by_all_threads(
    compiler: str, state: Program, compile_shared: CompileShared
) -> None:
    path = compile_shared(PATCH.format(root=ROOT, result=0), "-O2", compiler=compiler)
    for _ in range(5):
        hotpatch.apply(state.pid, path)
        for _ in range(3):
            assert state.expect_progress()["broken"] == 0
        result = hotpatch.revert(state.pid)
        assert result.messages == ("200 marked, hits counted",)
        assert state.expect_progress()["broken"] == 0


def test_a_transfer_that_fails_leaves_none(state: Program, compile_shared: CompileShared) -> None:
    path = compile_shared(PATCH.format(root=ROOT, result=1), "-O2")
    for _ in range(3):
        with refused("transfer mark", "returned 1", error=hotpatch.RolledBack):
            hotpatch.apply(state.pid, path, rehearse=False)
        assert state.expect_progress()["broken"] == 0

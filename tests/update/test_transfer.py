# SPDX-License-Identifier: GPL-2.0-or-later
"""State is carried over with the code, or neither changes: transfers, checks, reverses."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

import hotpatch
from hotpatch.update.result import Progress
from tests.support.compiled import CompileShared
from tests.support.programs import ROOT, Program, executable, patch, running, started
from tests.update.cycles import PAIRS, pairs
from tests.update.frozen import unchanged
from tests.update.judging import expect_answer, refused, regions, untouched

# These are about the commit itself: what a rehearsal finds never gets there.
STATE = f'#include "{ROOT}/tests/programs/patches/state.c"\n'
OLD, NEW = {"size": 24, "limit": 100, "broken": 0}, {"size": 32, "limit": 200, "broken": 0}


def expect(program: Program, *allowed: dict[str, int]) -> dict[str, int]:
    """All threads work on, with state and code that belong together."""
    program.expect_progress()
    reply = program.expect_progress()
    found = {name: reply[name] for name in OLD}
    assert found in allowed
    return found


@pytest.fixture
def state() -> Iterator[Program]:
    with running("state") as program:
        yield program


def test_to_and_fro(state: Program) -> None:
    for _ in range(5):
        result = hotpatch.apply(state.pid, patch("state"))
        assert result.messages == ("1000 entries moved",)
        assert result.warnings == ()
        expect(state, NEW)
        hotpatch.revert(state.pid)
        expect(state, OLD)
        assert regions(state.pid) == []


@pytest.mark.parametrize("threads", [0, 1, 60])
def test_numbers_of_threads(threads: int) -> None:
    with running("state", "100", str(threads)) as program:
        hotpatch.apply(program.pid, patch("state"))
        expect(program, NEW)
        hotpatch.revert(program.pid)
        expect(program, OLD)


FAILURES = {
    "returned": ("AFTER=return 7", "transfer grow (state.c:87) returned 7"),
    "negative": ("AFTER=return -1", "returned -1"),
    "null pointer": ("AFTER=*(volatile int *)8 = 1", "signal 11 (SIGSEGV) at grow+"),
    "illegal": ("AFTER=__builtin_trap()", "signal 4 (SIGILL) at grow+"),
    "division": ("AFTER=moved /= moved - entries", "signal 8 (SIGFPE)"),
    "abort": ("AFTER=__builtin_abort()", "signal 6 (SIGABRT)"),
    "loop": ('AFTER=for (;;) __asm__ volatile("")', "did not end within 0.5 s"),
    "sleep": (
        "AFTER=extern int sleep(unsigned); for (;;) sleep(100)",
        "did not end within 0.5 s",
    ),
    "exit": ("AFTER=__builtin_exit(3)", "called exit_group"),
    "_exit": ("AFTER=extern void _exit(int); _exit(3)", "called exit_group"),
    "fork": ("AFTER=extern int fork(void); if (fork() == 0) for (;;)", "called clone"),
    "exec": (
        'AFTER=extern int execl(const char *, ...); execl("/bin/true", "true", (char *)0)',
        "called execve",
    ),
    "stack": (
        "AFTER=char *end = __builtin_frame_address(0); for (;;) *(volatile char *)(end -= 64) = 1",
        "signal 11 (SIGSEGV) at grow+",
    ),
    "gives up": ('AFTER=hotpatch_fail("no, thanks")', "gave up: no, thanks"),
    "check": ("CHECK=1", "check check (state.c:"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_one_that_fails(name: str, state: Program, compile_shared: CompileShared) -> None:
    define, words = FAILURES[name]
    path = compile_shared(STATE, "-O2", "-g", f"-D{define}")
    for _ in range(2):
        with untouched(state), refused(words, error=hotpatch.RolledBack) as caught:
            hotpatch.apply(state.pid, path, transfer_timeout=0.5, rehearse=False)
        expect(state, OLD)
    if "SIG" in words:
        assert any("at state.c:81" in frame for frame in caught.value.frames)
    hotpatch.apply(state.pid, patch("state"))
    expect(state, NEW)


@pytest.mark.parametrize("name", ["returned", "null pointer", "loop", "exit", "gives up"])
def test_a_reverse_that_fails(name: str, state: Program, compile_shared: CompileShared) -> None:
    define, words = FAILURES[name]
    path = compile_shared(STATE, "-O2", "-g", f"-D{define.replace('AFTER', 'BACK')}")
    hotpatch.apply(state.pid, path, rehearse=False)
    words = words.replace("transfer grow (state.c:87)", "reverse shrink").replace(" at grow+", "")
    for _ in range(2):
        with refused(words, error=hotpatch.RolledBack):
            hotpatch.revert(state.pid, transfer_timeout=0.5)
        expect(state, NEW)


IN_PLACE = """
#include <hotpatch.h>
#include "{0}/tests/programs/state.h"
extern struct entry_v1 *table[BUCKETS];
extern long total, fail_at;
HOTPATCH_EXTERN_STATIC_DATA("state.c", volatile int, limit);
long sum(int bucket) {{ return HOTPATCH_ORIGINAL(sum)(bucket); }}
HOTPATCH_REPLACE(sum);
static long writes;
#define SET(place, value) \\
    do {{ hotpatch_set(place, value); if (writes++ == fail_at) return 1; }} while (0)
static int change(void)
{{
    char text[40] = "some bytes";
    for (int i = 0; i < BUCKETS; i++)
        for (struct entry_v1 *entry = table[i]; entry; entry = entry->next) {{
            SET(entry->value, entry->value * 3);
            SET(entry->key, -1);
            SET(entry->value, 0);
        }}
    SET(limit, 7);
    SET(total, 0);
    hotpatch_save(table, sizeof table);
    for (int i = 0; i < BUCKETS; i++)
        table[i] = 0;
    hotpatch_write(&table[3], text, sizeof text);
    return 2;
}}
HOTPATCH_TRANSFER(change);
"""


def test_every_byte_is_put_back_wherever_it_fails(compile_shared: CompileShared) -> None:
    path = compile_shared(IN_PLACE.format(ROOT), "-O2")
    # The kernel itself writes to a registered rseq area, when a thread has changed its processor.
    command = ["env", "GLIBC_TUNABLES=glibc.pthread.rseq=0", executable("state"), "10", "2"]
    with started(command) as program:
        for write in range(34):
            program.ask(f"fail {write}")
            with (
                unchanged(program),
                refused(f"returned {1 if write < 32 else 2}", error=hotpatch.RolledBack),
            ):
                hotpatch.apply(program.pid, path, rehearse=False)
            expect(program, OLD)


def test_a_lock_that_a_held_thread_has(compile_shared: CompileShared) -> None:
    """It is put back, and tried again when the lock may be free."""
    source = "#include <pthread.h>\nextern pthread_mutex_t lock;\n" + STATE
    take = "AFTER=pthread_mutex_lock(&lock); pthread_mutex_unlock(&lock)"
    path = compile_shared(source, "-O2", f"-D{take}")
    with running("state", "1000", "4") as program:
        program.ask("hold")
        with (
            untouched(program),
            refused("waits for a lock that a held thread has", error=hotpatch.Busy),
        ):
            hotpatch.apply(program.pid, path, timeout=0.3, rehearse=False)
        expect(program, OLD)
        later = threading.Timer(0.5, lambda: program.ask("release"))
        later.start()
        result = hotpatch.apply(program.pid, path, timeout=60, rehearse=False)
        later.join()
        assert result.attempts > 1
        expect(program, NEW)


def test_threads_that_are_always_in_malloc_or_a_lock(compile_shared: CompileShared) -> None:
    source = "#include <pthread.h>\nextern pthread_mutex_t lock;\n" + STATE
    take = "AFTER=pthread_mutex_lock(&lock); pthread_mutex_unlock(&lock)"
    path = compile_shared(source, "-O2", f"-D{take}")
    with running("state", "100", "4", "calling") as program:
        for _ in range(max(5, PAIRS // 10)):
            hotpatch.apply(program.pid, path, timeout=60, rehearse=False)
            expect(program, NEW)
            hotpatch.revert(program.pid, timeout=60)
            expect(program, OLD)


TRIVIAL = """
#include <hotpatch.h>
int answer(void) {{ return 2; }}
HOTPATCH_REPLACE(answer);
static int transfer(void)
{{
    double x = 1;
    for (int i = 0; i < 1000; i++)
        x *= 1.01;
    return x < 0;
}}
HOTPATCH_TRANSFER(transfer);
{0}
"""


def test_registers_are_kept(compile_shared: CompileShared) -> None:
    """Those of the borrowed thread, and of all that would have been sent to the parking code."""
    path = str(compile_shared(TRIVIAL.format("HOTPATCH_REVERSE(transfer);"), "-O2"))
    with running("registers") as program:
        pairs(program.pid, PAIRS, path, lambda _: program.expect_progress())
        reply = program.expect_progress()
        assert reply["mismatches"] == 0
        assert reply["main_eintr"] == 0


def test_no_reverse_no_revert(simple: Program, compile_shared: CompileShared) -> None:
    hotpatch.apply(simple.pid, compile_shared(TRIVIAL.format("")))
    with refused("HOTPATCH_REVERSE"):
        hotpatch.revert(simple.pid)
    expect_answer(simple, 2)


def test_a_patch_below_keeps_its_state(state: Program, compile_shared: CompileShared) -> None:
    hotpatch.apply(state.pid, patch("state"))
    first = hotpatch.patches(state.pid)[0].record.id
    hotpatch.apply(state.pid, compile_shared(TRIVIAL.format("HOTPATCH_REVERSE(transfer);")))
    with refused("has carried on with its state"):
        hotpatch.revert(state.pid, first)
    hotpatch.revert(state.pid)
    hotpatch.revert(state.pid, first)
    expect(state, OLD)


# Half a second of work, whatever the processor. The clock's struct timespec is two longs.
WAIT = (
    "do { extern int clock_gettime(int, void *); long now[2], end; clock_gettime(1, now); "
    "end = now[0] * 1000 + now[1] / 1000000 + 500; "
    "do clock_gettime(1, now); while (now[0] * 1000 + now[1] / 1000000 < end); } while (0)"
)
DEATHS = {
    "succeeds": (f"AFTER={WAIT}", NEW),
    "fails": (f"AFTER={WAIT}; return 1", OLD),
    "crashes": (f"AFTER={WAIT}; *(volatile int *)8 = 1", OLD),
    "aborts": (f"AFTER={WAIT}; __builtin_abort()", OLD),
    "never ends": ('AFTER=for (;;) __asm__ volatile("")', OLD),
    "gives up": (f'AFTER={WAIT}; hotpatch_fail("no")', OLD),
}


def die_in_a_transfer(act: Callable[[Callable[[Progress], None]], object]) -> None:
    """Do something in a child, which kills itself at the first report from within a transfer."""

    def report(progress: Progress) -> None:
        if progress.phase == "transfer":
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            act(report)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("name", DEATHS)
def test_the_patcher_dies_while_it_runs(
    name: str, state: Program, compile_shared: CompileShared
) -> None:
    """The target brings it to its end by itself; who comes next waits for that."""
    define, outcome = DEATHS[name]
    path = compile_shared(STATE, "-O2", "-g", f"-D{define}")
    die_in_a_transfer(
        lambda report: hotpatch.apply(
            state.pid, path, on_progress=report, transfer_timeout=2, rehearse=False
        )
    )
    others = hotpatch.apply(state.pid, patch("answer_2"), timeout=30)
    expect(state, outcome)
    hotpatch.revert(state.pid, others.patch.id)
    if outcome is NEW:
        hotpatch.revert(state.pid, transfer_timeout=30)
    expect(state, OLD)
    assert hotpatch.patches(state.pid) == []


def test_the_patcher_dies_while_a_reverse_runs(
    state: Program, compile_shared: CompileShared
) -> None:
    path = compile_shared(STATE, "-O2", f"-DBACK={WAIT}")
    hotpatch.apply(state.pid, path)
    die_in_a_transfer(lambda report: hotpatch.revert(state.pid, on_progress=report))
    hotpatch.apply(state.pid, patch("answer_2"), timeout=30)
    expect(state, OLD)


def test_too_long_for_the_pause(state: Program, compile_shared: CompileShared) -> None:
    path = compile_shared(STATE, "-O2", f"-DAFTER={WAIT}")
    with untouched(state), refused("--max-pause", error=hotpatch.Busy):
        hotpatch.apply(state.pid, path, max_pause_ms=100, rehearse=False)
    expect(state, OLD)


def test_who_is_told_of_progress_may_stop_it(state: Program, compile_shared: CompileShared) -> None:
    path = compile_shared(STATE, "-O2", f"-DAFTER={WAIT}")

    def report(progress: Progress) -> None:
        if progress.phase == "transfer":
            raise RuntimeError("enough")

    with untouched(state), pytest.raises(RuntimeError, match="enough"):
        hotpatch.apply(state.pid, path, on_progress=report, rehearse=False)
    expect(state, OLD)


def test_a_signal_of_somebody_else_comes_later(
    state: Program, compile_shared: CompileShared
) -> None:
    """SIGABRT of a watchdog, say: it ends the program, but not within a transfer."""
    path = compile_shared(STATE, "-O2", f"-DAFTER={WAIT}")
    seen: list[int] = []

    def report(progress: Progress) -> None:
        if progress.phase == "transfer" and not seen:
            seen.append(1)
            os.kill(state.pid, signal.SIGABRT)

    with contextlib.suppress(hotpatch.Gone):  # it may be, before all is read back
        hotpatch.apply(state.pid, path, on_progress=report)
    assert state.process.wait(10) == -signal.SIGABRT
    assert seen

# SPDX-License-Identifier: GPL-2.0-or-later
"""While an update waits: it says for what, and a signal takes it back."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
from collections.abc import Callable, Iterator

import pytest

from hotpatch.cli.failure import Interrupted
from hotpatch.cli.signals import Interruptible
from hotpatch.linux.priority import undisturbed
from tests.cli.running import Done, hotpatch, regions, started, wait_until_staged
from tests.cli.terminal import terminal
from tests.support.compiled import SharedObjects
from tests.support.programs import Program, patch, running


@pytest.fixture
def busy() -> Iterator[Program]:
    """A target that is asleep in the function to be replaced."""
    with running("inside", "asleep") as program:
        program.ask("enter")
        yield program


LINE = re.compile(r"waiting for quiescence: ([0-9.]+) of 60 s, (\d+) tries")


def expect_untouched(program: Program) -> None:
    """The target has its old code, nothing of hotpatch's, and can be patched."""
    assert regions(program.pid) == []
    assert program.ask("leave")["result"] == 1
    program.expect_progress()
    assert hotpatch("apply", program.pid, patch("compute")).code == 0


def test_progress_is_one_line_that_goes_away(busy: Program) -> None:
    with terminal("apply", "--timeout", "60", busy.pid, patch("compute")) as shown:
        shown.wait_for("tries, active: compute")
        while len(LINE.findall(shown.shown)) < 3:
            assert shown.read()
        busy.ask("leave")
        while shown.read():
            pass
        assert shown.wait() == 0
    before, _, after = shown.shown.partition("applied compute (")
    assert after
    assert "\n" not in before
    assert before.endswith("\r\x1b[K")
    times, tries = zip(*((float(s), int(n)) for s, n in LINE.findall(before)), strict=True)
    assert list(times) == sorted(times)
    assert times[-1] > 0
    assert list(tries) == sorted(tries)


@pytest.mark.parametrize("option", ["-q", "--json"])
def test_no_progress(busy: Program, option: str) -> None:
    with terminal("apply", option, "--timeout", "0.5", busy.pid, patch("compute")) as shown:
        while shown.read():
            pass
        assert shown.wait() == 4
    assert "waiting" not in shown.shown


def test_no_progress_where_stderr_is_no_terminal(busy: Program) -> None:
    done = hotpatch("apply", "--timeout", "0.5", busy.pid, patch("compute"))
    assert "waiting" not in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_update_back(busy: Program, number: signal.Signals) -> None:
    with started("apply", "--json", "--timeout", "60", busy.pid, patch("compute")) as patcher:
        wait_until_staged(busy)
        patcher.send_signal(number)
        done = Done(0, *patcher.communicate())
    assert patcher.returncode == 128 + number
    assert done.json["status"] == "interrupted"
    assert done.json["reason"] == f"interrupted by {number.name}"
    assert done.json["target"] == "old"
    assert done.json["pid"] == busy.pid
    assert "note: the target runs its old code" in done.err
    expect_untouched(busy)


def test_a_terminal_that_hangs_up_takes_it_back(busy: Program) -> None:
    with terminal("apply", "--timeout", "60", busy.pid, patch("compute")) as shown:
        shown.wait_for("waiting for quiescence")
        shown.hang_up()
        assert shown.wait() == 128 + signal.SIGHUP
    expect_untouched(busy)


def no_choice() -> None:
    """Start as a shell would."""


def be_nice() -> None:
    """Start as nice(1) would."""
    os.nice(3)


def lose_the_capability() -> None:
    """Start without CAP_SYS_NICE."""
    assert ctypes.CDLL(None).prctl(24, 23, 0, 0, 0) == 0  # PR_CAPBSET_DROP, capability(7)


@pytest.mark.parametrize(
    ("before", "nice"), [(no_choice, -10), (be_nice, 3), (lose_the_capability, 0)]
)
def test_priority(busy: Program, before: Callable[[], None], nice: int) -> None:
    """A command is a bit more urgent than its target, if that is allowed and it was not chosen."""
    command = ("apply", "--timeout", "60", busy.pid, patch("compute"))
    with started(*command, preexec_fn=before) as patcher:
        wait_until_staged(busy)
        assert os.getpriority(os.PRIO_PROCESS, patcher.pid) == nice
        busy.ask("leave")
        assert patcher.wait() == 0


def test_nohup(busy: Program) -> None:
    """Who ignores a signal when the command is started does not want it heeded."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = ("apply", "--json", "--timeout", "60", busy.pid, patch("compute"))
    with started(*command, preexec_fn=ignore) as patcher:
        wait_until_staged(busy)
        patcher.send_signal(signal.SIGHUP)
        busy.ask("leave")
        done = Done(0, *patcher.communicate())
    assert (patcher.returncode, done.json["status"]) == (0, "applied")


def test_a_signal_while_reverting_leaves_the_patch(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    staying = SharedObjects(tmp_path_factory.mktemp("patch"))(
        """
        #include <hotpatch.h>
        int compute(int depth)
        {
            int below = HOTPATCH_ORIGINAL(compute)(depth);
            __asm__ volatile(""); /* no tail call */
            return below + 1;
        }
        HOTPATCH_REPLACE(compute);
        """,
        "-O2",
    )
    with running("inside", "asleep") as program:
        assert hotpatch("apply", program.pid, staying).code == 0
        program.ask("enter")
        with terminal("revert", "--timeout", "60", program.pid) as shown:
            shown.wait_for("waiting for quiescence")
            os.kill(shown.pid, signal.SIGTERM)
            while shown.read():
                pass
            assert shown.wait() == 128 + signal.SIGTERM
        assert "the patch is in force in the target" in shown.shown
        assert program.ask("leave")["result"] == 2


def test_the_target_ends_meanwhile(busy: Program) -> None:
    with started("apply", "--json", "--timeout", "60", busy.pid, patch("compute")) as patcher:
        wait_until_staged(busy)
        busy.kill()
        done = Done(0, *patcher.communicate())
    assert patcher.returncode == 6
    assert done.json["status"] == "gone"


def test_only_a_second_interrupt_is_heeded() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruptible():
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_comes_too_late_is_only_noted() -> None:
    with Interruptible() as signals:
        signals.hush()
        os.kill(os.getpid(), signal.SIGTERM)
        assert str(signals.asked) == "interrupted by SIGTERM"
        signals.listen()


@pytest.mark.parametrize("when", ["before", "during"])
def test_an_interruption_of_a_stop_leaves_no_signal_blocked(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if when == "before":
        everything = signal.valid_signals()

        def with_one_due() -> set[signal.Signals]:
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGTERM)
            return everything

        monkeypatch.setattr(signal, "valid_signals", with_one_due)
    with Interruptible(), pytest.raises(Interrupted), undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert gc.isenabled()

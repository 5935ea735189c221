# SPDX-License-Identifier: GPL-2.0-or-later
"""A target that is killed while it is being stopped: it is gone, and its parent may know."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from hotpatch.errors import Gone
from hotpatch.linux import procfs, ptrace
from hotpatch.linux.threads import Hold
from tests.support.programs import running, wait_until


@pytest.fixture(autouse=True)
def _no_endless_loop() -> Iterator[None]:
    """A stop that never comes to an end fails, where it would else hang the test."""

    def fail(*_: object) -> None:
        raise TimeoutError("still stopping")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_one_that_has_ended_and_was_not_reaped() -> None:
    with running("threads", "4") as program:
        program.process.send_signal(signal.SIGKILL)
        wait_until(lambda: procfs.threads(program.pid) == [program.pid], "its threads end")
        wait_until(lambda: procfs.state(program.pid, program.pid) == "Z", "it ends")
        with pytest.raises(Gone), Hold(program.pid):
            pass


def test_one_that_is_killed_when_its_threads_are_seized(monkeypatch: pytest.MonkeyPatch) -> None:
    seize = ptrace.seize

    with running("threads", "4") as program:

        def seize_and_kill(tid: int) -> None:
            seize(tid)
            program.process.send_signal(signal.SIGKILL)

        monkeypatch.setattr(ptrace, "seize", seize_and_kill)
        with pytest.raises(Gone), Hold(program.pid):
            pass
        program.process.wait(20)
        assert not os.path.exists(f"/proc/{program.pid}")  # noqa: PTH110

# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that ask hotpatch to end: an update is taken back, and the command says so.

The library blocks signals while a target is held; so they come between two stops, as an
exception, which the library answers by undoing what it began.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from hotpatch.cli.failure import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted for the first of these signals.

    Undoing an update may have to wait for the target. A second SIGINT cuts that short: what is left
    in the target then is switched off, and the next hotpatch removes it. Signals that
    were ignored when the command was started (nohup, a shell's background) stay so.
    """
    asked = False

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if not asked or number == signal.SIGINT:
            asked = True
            raise Interrupted(number, signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = [number for number in _SIGNALS if before[number] != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])

# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that ask hotpatch to end: an update is taken back, and the command says so.

The library blocks signals while a target is held; so they come between two stops, as an
exception, which the library answers by undoing what it began.
"""

from __future__ import annotations

import signal
from types import FrameType

from hotpatch.cli.failure import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruptible:
    """A context in which the first of these signals raises Interrupted.

    Undoing an update may have to wait for the target. A second SIGINT cuts that short: what is left
    in the target then is switched off, and the next hotpatch removes it. Signals that
    were ignored when the command was started (nohup, a shell's background) stay so.

    Between `hush` and `listen` a signal is only noted in `asked`: then the outcome of an update
    is known, and is to be told.
    """

    def __init__(self) -> None:
        """Find out which signals are to be heeded."""
        self.asked: Interrupted | None = None
        self._hushed = False
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {n: handler for n, handler in handlers.items() if handler != signal.SIG_IGN}

    def __enter__(self) -> Interruptible:
        """Heed them."""
        for number in self._before:
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave them to those who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hush(self) -> None:
        """Raise nothing from here on."""
        self._hushed = True

    def listen(self) -> None:
        """Raise again."""
        self._hushed = False

    def _ask(self, number: int, _: FrameType | None) -> None:
        first = self.asked is None
        if first:
            self.asked = Interrupted(number, signal.Signals(number).name)
        if not self._hushed and (first or number == signal.SIGINT):
            raise Interrupted(number, signal.Signals(number).name)

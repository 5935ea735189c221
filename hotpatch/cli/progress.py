# SPDX-License-Identifier: GPL-2.0-or-later
"""One line on the terminal that says what an update waits for, while it does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from hotpatch.cli.output import Output, is_terminal

if TYPE_CHECKING:
    from typing import TextIO

    from hotpatch.update.result import Progress

_INTERVAL = 0.1  # seconds between two versions of the line; the first comes after as long
_BAR = 30  # characters
_ERASE = "\r\x1b[K"
_PHASES = {
    "stage": "waiting to put the patch into the target",
    "arm": "waiting to redirect entries",
    "rehearse": "waiting for quiescence, to rehearse",
    "commit": "waiting for quiescence",
    "probation": "watching the new code",
    "transfer": "carrying state over",
    "disarm": "waiting to restore entries",
    "unmap": "waiting to give memory back",
}


class Line:
    """The line; it overwrites itself, and is gone when the update is done."""

    def __init__(self, output: Output) -> None:
        """Find out whether there is to be one: on a terminal, not with --json or --quiet."""
        self.wanted = is_terminal(sys.stderr) and not output.json and not output.quiet
        self._next = time.monotonic() + _INTERVAL
        self._drawn = False

    @property
    def callback(self) -> Callable[[Progress], None] | None:
        """Return what the library calls."""
        return self._update if self.wanted else None

    def _update(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next and (progress.phase != "transfer" or _takes_text(sys.stderr)):
            self._next = now + _INTERVAL
            self._draw(describe(progress))

    def _draw(self, text: str) -> None:
        try:
            width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            sys.stderr.write(_ERASE + text[: width - 1])
            sys.stderr.flush()
            self._drawn = True
        except (OSError, ValueError):  # the terminal is gone, and the update goes on
            self.wanted = False

    def erase(self) -> None:
        """Leave the terminal as if it had not been there."""
        if self._drawn:
            self._draw("")
            self._drawn = False


def _takes_text(stream: TextIO) -> bool:
    """Say whether a terminal takes text at once: the target stands still as long as it does not."""
    import select  # noqa: PLC0415

    return bool(select.select((), (stream,), (), 0)[1])


def describe(progress: Progress) -> str:
    """Return what an update waits for, as one line."""
    phase = _PHASES.get(progress.phase, progress.phase)
    if progress.total:
        share = min(1.0, progress.done / progress.total)
        bar = "#" * round(_BAR * share)
        return f"{phase}: [{bar:<{_BAR}}] {share:4.0%}, {progress.elapsed:.1f} s"
    where = f", active: {', '.join(progress.blockers)}" if progress.blockers else ""
    return (
        f"{phase}: {progress.elapsed:.1f} of {progress.timeout:g} s, "
        f"{progress.attempts} tries{where}"
    )

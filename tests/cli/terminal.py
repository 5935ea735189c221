# SPDX-License-Identifier: GPL-2.0-or-later
"""The command on a terminal: a pseudo-terminal whose other end is the test."""

from __future__ import annotations

import os
import pty
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.cli.running import COMMAND, TIMEOUT, Done, environment


class Terminal:
    """A terminal on which the command runs, as the leader of a session of its own."""

    def __init__(self, *arguments: object, **changes: str) -> None:
        self.pid, self._fd = pty.fork()
        if not self.pid:
            variables = environment(**{"TERM": "xterm", **changes})
            command = [*COMMAND, *map(str, arguments)]
            os.execve(command[0], command, variables)
        self.shown = ""
        self._code: int | None = None

    def read(self) -> bool:
        """Wait for more of what is shown; return False at the end."""
        ready, _, _ = select.select([self._fd], [], [], TIMEOUT)
        assert ready, f"nothing more is shown than {self.shown!r}"
        try:
            piece = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has it open any more
            return False
        self.shown += piece.decode()
        return bool(piece)

    def wait_for(self, text: str) -> None:
        """Wait until a text is shown."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.shown:
            assert self.read() and time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"

    def hang_up(self) -> None:
        """Close the terminal, as its window is closed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def wait(self) -> int:
        """Wait for the end of the command; return its exit code."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def end(self) -> None:
        """See to it that it is gone."""
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self.wait()
        self.hang_up()


@contextmanager
def terminal(*arguments: object, **changes: str) -> Iterator[Terminal]:
    """Run the command on a terminal, and end it at the end."""
    it = Terminal(*arguments, **changes)
    try:
        yield it
    finally:
        it.end()


def on_a_terminal(*arguments: object, **changes: str) -> Done:
    """Run the command on a terminal to its end; both streams are one."""
    with terminal(*arguments, **changes) as it:
        while it.read():
            pass
        return Done(it.wait(), it.shown, "")

# SPDX-License-Identifier: GPL-2.0-or-later
"""The health command of a probation: what the operator knows of how well the target does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

from hotpatch.linux.priority import unhurried
from hotpatch.update.result import Result

_HEALTH_DISTANCE = 1.0  # seconds from the end of one run to the next
_HEALTH_TIME = 5.0  # seconds that a run may take at least


class Health:
    """A shell command that is run again and again, once at a time."""

    def __init__(self, command: str, seconds: float, result: Result) -> None:
        """Run `command` for `seconds`, with what was applied, and to whom, in its environment."""
        self._command = command
        self._limit = max(_HEALTH_TIME, seconds)
        self._environment = {
            **os.environ,
            "HOTPATCH_PID": str(result.pid),
            "HOTPATCH_PATCH": result.patch.id,
        }
        self._next = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._began = 0.0

    def failure(self) -> str | None:
        """Look after the command; return why it says that all is not well, if it does."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._next:
                self._start(now)
            return None
        if self._process.poll() is None:
            if now - self._began > self._limit:
                return f"the health command `{self._command}` did not end within {self._limit:g} s"
            return None
        return self._over(now)

    def last(self) -> str | None:
        """Wait for the run that is under way when the time is over, or make one if none was."""
        now = time.monotonic()
        if self._process is None and not self._began:
            self._start(now)
        if self._process is None:
            return None
        try:
            self._process.wait(max(0.0, self._began + self._limit - now))
        except subprocess.TimeoutExpired:
            return f"the health command `{self._command}` did not end within {self._limit:g} s"
        return self._over(time.monotonic())

    def _start(self, now: float) -> None:
        self._began = now
        with unhurried():
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self._environment,
                start_new_session=True,
            )

    def _over(self, now: float) -> str | None:
        assert self._process is not None
        assert self._process.stdout is not None
        code = self._process.returncode
        lines = self._process.stdout.read().splitlines()
        self._process.stdout.close()
        self._process, self._next = None, now + _HEALTH_DISTANCE
        if code == 0:
            return None
        how = f"exited with {code}" if code > 0 else f"was killed by signal {-code}"
        last = f": {lines[-1]}" if lines else ""
        return f"the health command `{self._command}` {how}{last}"

    def end(self) -> None:
        """Leave no process of it behind."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

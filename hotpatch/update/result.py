# SPDX-License-Identifier: GPL-2.0-or-later
"""What an update came to, as values that the command prints as JSON."""

from __future__ import annotations

from typing import Any, NamedTuple


class PatchName(NamedTuple):
    """Which patch: `id` is unique, `name` for people."""

    id: str
    name: str


class FunctionChange(NamedTuple):
    """A function that now has other code; addresses are hexadecimal strings."""

    name: str
    module: str
    old: str
    new: str


class StopTime(NamedTuple):
    """One stop of the target: in which phase, and the longest time a thread was held, in µs."""

    phase: str
    us: int


class Result(NamedTuple):
    """The outcome of apply or revert; times are what their names say."""

    status: str
    pid: int
    patch: PatchName
    functions: tuple[FunctionChange, ...]
    threads: int
    attempts: int
    pause_us: int
    stops: tuple[StopTime, ...]
    elapsed_ms: int
    warnings: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Return the result as the JSON object that the command prints."""
        return {
            **self._asdict(),
            "patch": self.patch._asdict(),
            "functions": [function._asdict() for function in self.functions],
            "stops": [stop._asdict() for stop in self.stops],
            "warnings": list(self.warnings),
        }


class Progress(NamedTuple):
    """What an update is doing: reported while it waits.

    `phase` is one of "stage", "arm", "commit", "disarm", "unmap"; `blockers` are the functions
    that were active at the last try.
    """

    phase: str
    attempts: int
    elapsed: float
    timeout: float
    blockers: tuple[str, ...]

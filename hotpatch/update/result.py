# SPDX-License-Identifier: GPL-2.0-or-later
"""What an update came to, as values that the command prints as JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

TRANSFER_TIMEOUT = 5.0
"""How many seconds checks and transfers may take together, if nothing else is said."""


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
    rehearsal: Rehearsal | None
    messages: tuple[str, ...]
    """What the patch has to say to the operator, a line each."""

    def fields(self) -> dict[str, Any]:
        """Return the result as the JSON object that the command prints."""
        return {
            **self._asdict(),
            "patch": self.patch._asdict(),
            "functions": [function._asdict() for function in self.functions],
            "stops": [stop._asdict() for stop in self.stops],
            "warnings": list(self.warnings),
            "rehearsal": self.rehearsal and self.rehearsal._asdict(),
            "messages": list(self.messages),
        }


class Rehearsal(NamedTuple):
    """What the checks and transfers took in a replica of the target.

    `us` is their time, `logged` how many bytes they changed by way of the log, `private_kib` the
    memory that the replica had of its own in the end, in KiB, and `stall_us` the longest time for
    which a thread of the target was held for it.
    """

    us: int
    logged: int
    private_kib: int
    stall_us: int


class Step(NamedTuple):
    """A function of a patch that is run in the target, with all threads stopped.

    `kind` is "check", "transfer" or "reverse"; `where` is file:line, "" where it isn't known.
    """

    kind: str
    name: str
    where: str
    address: int

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"{self.kind} {self.name}" + (f" ({self.where})" if self.where else "")


class Progress(NamedTuple):
    """What an update is doing: reported while it waits.

    `phase` is one of "stage", "arm", "rehearse", "commit", "transfer", "disarm", "unmap";
    `blockers` are the functions that were active at the last try. In the phase "transfer" the
    target stands still; `done` of `total` is what the patch says, 0 of 0 if it doesn't.
    """

    phase: str
    attempts: int
    elapsed: float
    timeout: float
    blockers: tuple[str, ...]
    done: int = 0
    total: int = 0

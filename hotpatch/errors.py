# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong, one class for each exit code of the command.

Every error says what is wrong (`reason`) and what to do about it (`hint`); `status` and
`exit_code` are the words of the interface. Anything else that a caller may want to
act on is an attribute, and `fields()` gives the whole as the JSON object of the command.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple


class Blocker(NamedTuple):
    """A thread that kept an update from its quiescent point."""

    tid: int
    function: str
    frames: tuple[str, ...]
    syscall: str


class HotpatchError(Exception):
    """Base of all errors; raised itself only for a defect of hotpatch."""

    status: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, reason: str, hint: str = "", **details: Any) -> None:
        """Keep `reason` and `hint` (sentences for people) and the fields that go with them."""
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.details = details

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["details"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason

    def fields(self) -> dict[str, Any]:
        """Return the error as the JSON object that the command prints."""
        return {"status": self.status, "reason": self.reason, "hint": self.hint, **self.details}


class Refused(HotpatchError, ValueError):
    """Patch and target don't fit, or the update would be unsafe; the target is untouched."""

    status = "refused"
    exit_code = 3


class Busy(HotpatchError, TimeoutError):
    """No quiescent point within the timeout; the target is unchanged."""

    status = "busy"
    exit_code = 4

    def __init__(
        self, reason: str, hint: str = "", blockers: tuple[Blocker, ...] = (), **details: Any
    ) -> None:
        """Like the base class, with the threads that stood in the way."""
        super().__init__(reason, hint, **details)
        self.blockers = blockers

    def fields(self) -> dict[str, Any]:
        """Return the error as JSON, its blockers as objects."""
        return {**super().fields(), "blockers": [b._asdict() for b in self.blockers]}


class RolledBack(HotpatchError, RuntimeError):
    """Code of the patch failed in the target, which has its old state and code again."""

    status = "rolled-back"
    exit_code = 5


class Gone(HotpatchError, ProcessLookupError):
    """The process ended, or never was."""

    status = "gone"
    exit_code = 6


class Denied(HotpatchError, PermissionError):
    """The kernel, or another tracer, does not let us at the process."""

    status = "denied"
    exit_code = 7

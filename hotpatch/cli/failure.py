# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way in which a command can fail, as an exit code and the fields of a JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hotpatch.cli.arguments import Usage
from hotpatch.cli.output import CYAN, RED, Output
from hotpatch.errors import Denied, Gone, HotpatchError

_SIGINT = 2  # importing `signal` would be felt by commands that need nothing else of it
_MOST_BLOCKERS = 20
_MOST_FRAMES = 4

STATES = {
    "old": "the target runs its old code",
    "new": "the patch is in force in the target",
    "untouched": "the target was not touched",
    "unknown": "the target can't be looked at; `hotpatch list` says what it runs",
}


class Interrupted(KeyboardInterrupt):
    """A signal asks hotpatch to stop."""

    def __init__(self, number: int, name: str) -> None:
        """Keep which signal it was."""
        super().__init__(f"interrupted by {name}")
        self.number = number


class Failure(NamedTuple):
    """How a command failed: `fields` have at least status, reason and hint."""

    code: int
    fields: dict[str, Any]
    error: BaseException

    @property
    def says_state(self) -> bool:
        """Say whether the status tells what the target runs: that of a defect doesn't."""
        return self.code not in (HotpatchError.exit_code, *range(128, 256))

    def with_state(self, state: str) -> Failure:
        """Return it with what the target runs, one of STATES, where the status doesn't tell."""
        return self if self.says_state else self.having(target=state)

    def having(self, **fields: Any) -> Failure:
        """Return it with further fields."""
        return self._replace(fields={**self.fields, **fields})


def failure_of(error: BaseException) -> Failure:
    """Return what an exception means to the user."""
    if isinstance(error, Usage):
        fields = {"status": "usage", "reason": error.reason, "hint": error.hint, **error.details}
        return Failure(2, fields, error)
    if isinstance(error, HotpatchError):
        return Failure(error.exit_code, error.fields(), error)
    if isinstance(error, KeyboardInterrupt):
        number = getattr(error, "number", _SIGINT)
        reason = str(error) or "interrupted by SIGINT"
        return Failure(128 + number, {"status": "interrupted", "reason": reason, "hint": ""}, error)
    if isinstance(error, ProcessLookupError):
        return Failure(Gone.exit_code, Gone("the process ended").fields(), error)
    if isinstance(error, PermissionError):
        denied = Denied(f"the kernel denies it: {error}", "run hotpatch as root")
        return Failure(denied.exit_code, denied.fields(), error)
    return Failure(HotpatchError.exit_code, _unexpected(error).fields(), error)


def _unexpected(error: BaseException) -> HotpatchError:
    """Return the error for what nobody foresaw: of the machine's resources, or a defect."""
    kind = type(error).__name__
    if isinstance(error, (OSError, MemoryError)):
        return HotpatchError(str(error) or kind, f"{_place(error)}; mend that, and try again")
    return HotpatchError(
        f"a defect of hotpatch: {kind}: {error} {_place(error)}",
        "report it, with what hotpatch --version and -v say",
    )


def _place(error: BaseException) -> str:
    """Return where in the source an exception was raised."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}, line {trace.tb_lineno})"


def report(failure: Failure, output: Output, prefix: str = "") -> None:
    """Tell the user of a failure: what is wrong, who is in the way, what to do."""
    fields = failure.fields
    output.message("error", RED, prefix + fields["reason"])
    # A blocker that is neither thread nor coroutine is the reason itself.
    for message in fields.get("messages", ()):
        output.line(f"the patch says: {message}")
    for frame in fields.get("frames", ())[: None if output.verbose else _MOST_FRAMES]:
        output.line(f"in {frame}")
    blockers = [b for b in fields.get("blockers", ()) if b["tid"] or b["syscall"]]
    shown = len(blockers) if output.verbose else _MOST_BLOCKERS
    for blocker in blockers[:shown]:
        output.line(_blocker(blocker, output.verbose))
    if shown < len(blockers):
        output.line(f"and {len(blockers) - shown} more, shown with -v")
    for candidate in fields.get("candidates", ()):
        output.line(f"{candidate['pid']}  {candidate['command']}")
    if "target" in fields:
        output.message("note", CYAN, STATES[fields["target"]])
    if fields["hint"]:
        output.message("hint", CYAN, fields["hint"])
    if failure.code == HotpatchError.exit_code and output.verbose:
        from traceback import format_exception  # noqa: PLC0415

        output.line("".join(format_exception(failure.error)))


def _blocker(blocker: Mapping[str, Any], all_frames: bool) -> str:
    """Return one thread that stood in the way: where it was, and what it slept in; or coroutine."""
    frames = blocker["frames"] if all_frames else blocker["frames"][:_MOST_FRAMES]
    call = blocker["syscall"]
    doing = f", asleep in {call}()" if call not in ("", "running") else f", {call}" * bool(call)
    found = f": {', '.join(frames)}" if frames else ""
    if not blocker["tid"]:
        return f"{call}, in {blocker['function']}{found}"
    return f"thread {blocker['tid']} in {blocker['function']}{doing}{found}"

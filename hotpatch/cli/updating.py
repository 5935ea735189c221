# SPDX-License-Identifier: GPL-2.0-or-later
"""What apply and revert have in common: one update, or the same for every process of a program.

However an update ends, its outcome says what the target runs: after an interruption or
a defect that is read from the target itself, as nothing else is sure then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from hotpatch.cli.failure import Failure, failure_of, report
from hotpatch.cli.output import Output
from hotpatch.cli.progress import Line
from hotpatch.cli.signals import Interruptible
from hotpatch.cli.targets import Chosen, running
from hotpatch.process import ledger
from hotpatch.update.result import Progress
from hotpatch.update.target import Target

_TURNS = 4  # of looking for processes that were forked by one before it was updated

OnProgress = Callable[[Progress], None]


class Done(NamedTuple):
    """What was done: the fields of its JSON object, and text for people."""

    fields: dict[str, Any]
    text: str
    warnings: tuple[str, ...]


class Update(Protocol):
    """What a command does to one process."""

    def carry_out(self, target: Target, on_progress: OnProgress | None) -> Done:
        """Do it; raises the errors of `hotpatch.errors`."""

    def patch_id(self) -> str | None:
        """Return which patch it is about, as far as that is known by now."""

    def done_before(self) -> dict[str, Any]:
        """Return fields for what was done before it failed."""

    def is_needed(self, target: Target) -> bool:
        """Say whether a process that was forked meanwhile still lacks it."""


def update(chosen: Chosen, job: Update, output: Output) -> int:
    """Carry out an update of all chosen processes, report it, and return the exit code."""
    output.touched = True
    outcomes: list[Done | Failure] = []
    with Interruptible() as signals:
        for pid, late in _pids(chosen):
            outcome = _attempt(pid, job, Line(output), signals, late)
            if outcome is not None:
                outcomes.append(outcome)
                _tell(outcome, output, f"process {pid}: " if chosen.all_of else "")
            if signals.asked is not None:
                if chosen.all_of and not _was_interrupted(outcome):
                    outcomes.append(failure_of(signals.asked))  # there may have been more to do
                break
    fields = [outcome.fields for outcome in outcomes]
    output.value(fields if chosen.all_of else fields[0])
    codes = [outcome.code for outcome in outcomes if isinstance(outcome, Failure)]
    return codes[0] if codes else 0


def _was_interrupted(outcome: Done | Failure | None) -> bool:
    return isinstance(outcome, Failure) and isinstance(outcome.error, KeyboardInterrupt)


def _pids(chosen: Chosen) -> Iterator[tuple[int, bool]]:
    """Yield the chosen processes; then those that have begun to run the program meanwhile."""
    seen: set[int] = set()
    pids = chosen.pids
    for turn in range(_TURNS if chosen.all_of else 1):
        for pid in pids:
            yield pid, turn > 0
        seen.update(pids)
        pids = [p for p in running(chosen.all_of) if p not in seen] if chosen.all_of else []


def _attempt(
    pid: int, job: Update, line: Line, signals: Interruptible, late: bool
) -> Done | Failure | None:
    """Update one process; None where it was born with the update."""
    try:
        target = Target(pid)
    except (Exception, KeyboardInterrupt) as error:
        signals.hush()
        return failure_of(error).having(pid=pid).with_state("untouched")
    try:
        signals.listen()
        done = job.carry_out(target, line.callback) if not late or job.is_needed(target) else None
        signals.hush()
        return done
    except (Exception, KeyboardInterrupt) as error:
        signals.hush()
        return _failure(error, target, job)
    finally:
        line.erase()
        target.close()


def _failure(error: BaseException, target: Target, job: Update) -> Failure:
    """Return a failure, with what the target runs where the kind of error doesn't say it."""
    failure = failure_of(error).having(pid=target.pid, **job.done_before())
    if failure.says_state:
        return failure
    state = _state(target, job)
    if state == "gone":
        return failure_of(ProcessLookupError()).having(pid=target.pid)
    return failure.with_state(state)


def _state(target: Target, job: Update) -> str:
    """Return whether a target runs the patch of an update: "new", "old", "gone" or "unknown"."""
    try:
        if not target.alive():
            return "gone"
        patch_id = job.patch_id()
        found = [p for p in target.patches() if p.record.id == patch_id]
    except ProcessLookupError:
        return "gone"
    except Exception:
        return "unknown"
    return "new" if any(patch.switch == ledger.ON for patch in found) else "old"


def _tell(outcome: Done | Failure, output: Output, prefix: str) -> None:
    if isinstance(outcome, Failure):
        report(outcome, output, prefix)
        return
    output.result(outcome.text)
    for warning in outcome.warnings:
        output.warning(prefix + warning)

# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch revert PID [PATCH-ID]`: take a patch out of a process."""

from __future__ import annotations

from typing import Any

from hotpatch.cli import arguments as options
from hotpatch.cli.arguments import Arguments, Option
from hotpatch.cli.output import Output
from hotpatch.cli.report import SHORT_ID, result_text, table
from hotpatch.cli.targets import choose
from hotpatch.cli.updating import Done, OnProgress, update
from hotpatch.process import ledger
from hotpatch.update.result import Result
from hotpatch.update.target import Target

OPERANDS = ("PID [PATCH-ID]", "PID --all", "--exe PATH ...", "--all-of PATH ...")
OPTIONS = (
    Option(("--all",), "take out all patches, the newest first"),
    options.TIMEOUT,
    options.MAX_PAUSE,
    options.TRANSFER_TIMEOUT,
    options.DRY_RUN,
    options.EXE,
    options.ALL_OF,
    options.JSON,
    options.QUIET,
    options.VERBOSE,
    options.NO_COLOR,
)


def run(arguments: Arguments, output: Output) -> int:
    """Take out a patch, or all, or only say which that would be."""
    how = "name a process, and one patch or --all or nothing for the newest"
    chosen = choose(arguments, 0, 0 if arguments.all else 1, how)
    return update(chosen, Revert(next(iter(chosen.operands), None), arguments), output)


class Revert:
    """The reverting of one patch or all; see `hotpatch.cli.updating.Update`."""

    def __init__(self, patch_id: str | None, arguments: Arguments) -> None:
        """Revert the patch whose id begins like this, the newest for None."""
        self._wanted = patch_id
        self._arguments = arguments
        self._current: str | None = None
        self._results: list[Result] = []
        self._reverted: set[str] = set()

    def carry_out(self, target: Target, on_progress: OnProgress | None) -> Done:
        """Revert it in one process."""
        given = self._arguments
        self._results = []
        patches = self._choose(target)
        if given.dry_run:
            return _preview(target, patches, given.all)
        for patch in patches:
            self._current = patch.record.id
            self._results.append(
                target.revert(
                    self._current,
                    given.timeout,
                    given.max_pause,
                    on_progress,
                    given.transfer_timeout,
                )
            )
            self._reverted.add(self._current)
        fields = _together(self._results) if given.all else self._results[0].fields()
        text = "\n".join(result_text(result, given.verbose) for result in self._results)
        return Done(fields, text, tuple(w for result in self._results for w in result.warnings))

    def _choose(self, target: Target) -> list[ledger.Entry]:
        """Return the patches to revert, newest first; raises Refused where there are none."""
        newest = target.patch(self._wanted)
        if not self._arguments.all:
            return [newest]
        return [patch for patch in reversed(target.patches()) if patch.switch == ledger.ON]

    def patch_id(self) -> str | None:
        """Return the id of the patch that is being reverted."""
        return self._current

    def done_before(self) -> dict[str, Any]:
        """Return the patches that were reverted before the failure."""
        return {"reverted": [r.patch._asdict() for r in self._results]} if self._results else {}

    def is_needed(self, target: Target) -> bool:
        """Say whether a process still has what was reverted in its siblings."""
        return any(
            patch.record.id in self._reverted and patch.switch == ledger.ON
            for patch in target.patches()
        )


def _together(results: list[Result]) -> dict[str, Any]:
    """Return several results as one object: with `patches` where one alone has `patch`."""
    fields = [result.fields() for result in results]
    return {
        "status": "reverted",
        "pid": results[0].pid,
        "patches": [one["patch"] for one in fields],
        "functions": [function for one in fields for function in one["functions"]],
        "threads": max(result.threads for result in results),
        "attempts": max(result.attempts for result in results),
        "pause_us": max(result.pause_us for result in results),
        "stops": [stop for one in fields for stop in one["stops"]],
        "elapsed_ms": sum(result.elapsed_ms for result in results),
        "warnings": [warning for result in results for warning in result.warnings],
        "messages": [message for result in results for message in result.messages],
    }


def _preview(target: Target, patches: list[ledger.Entry], all_of_them: bool) -> Done:
    """Return what would be reverted."""
    names = [{"id": patch.record.id, "name": patch.record.name} for patch in patches]
    functions = [f for patch in patches for f in patch.record.replaced]
    fields = {
        "status": "ok",
        "pid": target.pid,
        **({"patches": names} if all_of_them else {"patch": names[0]}),
        "functions": [
            {"name": f.name, "module": f.module, "old": hex(f.new), "new": hex(f.old)}
            for f in functions
        ],
        "warnings": [],
    }
    lines = [
        f"{name['name']} ({name['id'][:SHORT_ID]}) can be reverted in process {target.pid}"
        for name in names
    ]
    rows = [(f"  {f.name}", f"{f.new:#x} -> {f.old:#x}", f.module) for f in functions]
    return Done(fields, "\n".join(lines + table(rows)), ())

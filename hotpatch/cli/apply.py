# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch apply PID PATCH.so`: apply a patch to a running process."""

from __future__ import annotations

from typing import Any

from hotpatch.cli import arguments as options
from hotpatch.cli.arguments import Arguments, Option, Usage
from hotpatch.cli.output import Output
from hotpatch.cli.report import plan_fields, plan_text, result_text
from hotpatch.cli.targets import choose
from hotpatch.cli.updating import Done, OnProgress, update
from hotpatch.errors import HotpatchError
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.update.target import Target

OPERANDS = ("PID PATCH.so", "--exe PATH PATCH.so", "--all-of PATH PATCH.so")
OPTIONS = (
    options.TIMEOUT,
    options.MAX_PAUSE,
    options.TRANSFER_TIMEOUT,
    options.REHEARSE,
    options.NO_REHEARSE,
    options.REPLACE,
    options.UPDATE_POINT,
    options.REQUIRE_TYPES,
    options.PROBATION,
    options.HEALTH,
    options.DRY_RUN,
    Option(("--force",), "skip a refusal that says it may be skipped; never one for safety"),
    options.EXE,
    options.ALL_OF,
    options.JSON,
    options.QUIET,
    options.VERBOSE,
    options.NO_COLOR,
)


def run(arguments: Arguments, output: Output) -> int:
    """Apply the patch, or only say what that would do."""
    if arguments.rehearse and arguments.no_rehearse:
        raise Usage("--rehearse and --no-rehearse exclude each other", "leave one of them")
    if arguments.rehearse and arguments.dry_run:
        raise Usage(
            "--rehearse puts the patch into the target, and --dry-run leaves that untouched",
            "leave one of them",
        )
    if arguments.health and not arguments.probation:
        raise Usage("--health is run during a probation", "say how long that is: --probation 60")
    if arguments.probation and arguments.all_of:
        raise Usage(
            "--probation watches one process, and --all-of names all of a program",
            "apply it to one of them with --probation first, and to all others afterwards",
        )
    chosen = choose(arguments, 1, 1, "name a process and a patch: hotpatch apply PID PATCH.so")
    return update(chosen, Apply(chosen.operands[0], arguments), output)


class Apply:
    """The application of one patch; see `hotpatch.cli.updating.Update`."""

    def __init__(self, path: str, arguments: Arguments) -> None:
        """Apply the patch at `path`, within the limits that the command line sets."""
        self._path = path
        self._arguments = arguments

    def carry_out(self, target: Target, on_progress: OnProgress | None) -> Done:
        """Apply it to one process."""
        given = self._arguments
        plan = None
        if given.dry_run or (given.verbose and not given.json):
            plan = target.plan(
                self._path, given.replace, given.force, given.update_point, given.require_types
            )
        if given.dry_run:
            assert plan is not None
            return Done(plan_fields(plan), plan_text(plan, given.verbose), plan.warnings)
        result = target.apply(
            plan or self._path,
            given.timeout,
            given.max_pause,
            on_progress,
            given.replace,
            given.force,
            given.update_point,
            given.transfer_timeout,
            not given.no_rehearse,
            given.require_types,
            given.probation,
            given.health,
        )
        if given.rehearse and result.rehearsal is None:
            nothing = "nothing was rehearsed: the patch has no checks or transfers"
            result = result._replace(warnings=(*result.warnings, nothing))
        details = plan_text(plan, True) + "\n" if plan else ""
        return Done(result.fields(), details + result_text(result, given.verbose), result.warnings)

    def patch_id(self) -> str | None:
        """Return the id of the patch."""
        try:
            return PatchFile.open(self._path, self._arguments.replace).id
        except HotpatchError:
            return None  # then it can't have been applied

    def done_before(self) -> dict[str, Any]:
        """Return nothing: a patch is applied or not."""
        return {}

    def is_needed(self, target: Target) -> bool:
        """Say whether a process has not inherited the patch."""
        patch_id = self.patch_id()
        return not any(
            patch.record.id == patch_id and patch.switch == ledger.ON for patch in target.patches()
        )

# SPDX-License-Identifier: GPL-2.0-or-later
"""The library: a target to be looked at, patched and reverted, step by step or at once.

What a method needs is imported in it: half of hotpatch is about planning, and no revert needs that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hotpatch.errors import Refused
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.update.result import TRANSFER_TIMEOUT, Progress, Result

if TYPE_CHECKING:
    from hotpatch.update.backtrace import Backtrace
    from hotpatch.update.plan import Plan

OnProgress = Callable[[Progress], None]


class Target:
    """A running process; a context manager.

    All methods of one target have to be called from one thread, and raise the errors of
    `hotpatch.errors`. Nothing is printed, no signal handler is set.
    """

    def __init__(self, pid: int) -> None:
        """Open process `pid`; raises Gone, Denied or Refused."""
        self._process = Process(pid)

    def __enter__(self) -> Target:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the process."""
        self.close()

    def close(self) -> None:
        """Let go of the process; its patches stay."""
        self._process.close()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Say whether the process has not ended."""
        return self._process.alive()

    def plan(
        self,
        path: str | os.PathLike[str],
        replace: Sequence[str] = (),
        force: bool = False,
        update_points: Sequence[str] = (),
        require_types: bool = False,
    ) -> Plan:
        """Return what applying the patch at `path` would do; the target is not touched.

        `replace` names functions ("old" or "old=new") of a shared object without a
        manifest; `force` skips refusals that say they may be forced; `update_points` names
        functions of the target at whose entry a thread may be, whatever has called them;
        `require_types` refuses a patch whose types can't be checked. Raises Refused.
        """
        from hotpatch.patch.file import PatchFile  # noqa: PLC0415
        from hotpatch.update.plan import make_plan  # noqa: PLC0415

        self._process.refresh()
        patch = PatchFile.open(os.fspath(path), replace, update_points)
        with self._process.expected_alive():
            return make_plan(
                self._process, patch, force, tuple(replace), tuple(update_points), require_types
            )

    def apply(
        self,
        plan: Plan | str | os.PathLike[str],
        timeout: float = 10.0,
        max_pause_ms: float | None = None,
        on_progress: OnProgress | None = None,
        replace: Sequence[str] = (),
        force: bool = False,
        update_points: Sequence[str] = (),
        transfer_timeout: float = TRANSFER_TIMEOUT,
        rehearse: bool = True,
        require_types: bool = False,
        probation: float | None = None,
        health: str | None = None,
    ) -> Result:
        """Apply a patch, given as a plan or a path; return what was done, read back.

        `timeout` is the seconds to wait for quiescence, `max_pause_ms` the longest that the target
        may be held, `on_progress` is called between tries, `transfer_timeout` is how many seconds
        the checks and transfers of the patch may take together; with `rehearse` they are tried out
        in a replica of the target before; `require_types` is as for `plan`. For `probation` seconds
        after it the target is watched, and a failure of the new code, or of the shell command
        `health`, takes the patch out again: RolledBack. A plan whose patch file has changed since
        is Refused.
        """
        from hotpatch.patch.file import PatchFile  # noqa: PLC0415
        from hotpatch.update import apply as applying  # noqa: PLC0415
        from hotpatch.update.session import Options  # noqa: PLC0415

        if not isinstance(plan, str | os.PathLike):
            require_types = require_types or plan.require_types
        options = Options(
            timeout, max_pause_ms, on_progress, transfer_timeout, rehearse, require_types
        )
        self._process.refresh()
        if isinstance(plan, str | os.PathLike):
            patch = PatchFile.open(os.fspath(plan), replace, update_points)
        else:
            patch = PatchFile.open(plan.path, plan.replace, plan.points)
            force = force or plan.forced
            if patch.digest != plan.record.digest:
                raise Refused(
                    f"{plan.path} has changed since it was checked", "check it again, then apply it"
                )
        with self._process.expected_alive():
            result = applying.apply(self._process, patch, options, force)
            if probation:
                from hotpatch.update.probation import Probation, probe  # noqa: PLC0415

                watched = Probation(probation, health)
                result = probe(self._process, patch, result, watched, options)
            return result

    def revert(
        self,
        patch_id: str | None = None,
        timeout: float = 10.0,
        max_pause_ms: float | None = None,
        on_progress: OnProgress | None = None,
        transfer_timeout: float = TRANSFER_TIMEOUT,
    ) -> Result:
        """Take out a patch, the newest where no id is given; return what was done, read back.

        `transfer_timeout` is how many seconds its reverses may take together; the rest is as for
        `apply`.
        """
        from hotpatch.update import revert as reverting  # noqa: PLC0415
        from hotpatch.update.session import Options  # noqa: PLC0415

        self._process.refresh()
        options = Options(timeout, max_pause_ms, on_progress, transfer_timeout)
        with self._process.expected_alive():
            return reverting.revert(self._process, patch_id, options)

    def stacks(self, functions: Sequence[str] = ()) -> Backtrace:
        """Return what every thread is doing, with the frames that lie in `functions` marked.

        The threads are held for a moment, to copy their stacks. Raises Refused for a function that
        the process doesn't have.
        """
        from hotpatch.update.backtrace import backtrace  # noqa: PLC0415

        self._process.refresh()
        with self._process.expected_alive():
            return backtrace(self._process, functions)

    def patches(self) -> list[ledger.Entry]:
        """Return the records of patches in the process, the oldest first."""
        self._process.refresh()
        return self._process.patches

    def patch(self, patch_id: str | None = None) -> ledger.Entry:
        """Return the applied patch with this id, start of an id, or name; the newest for None.

        Raises Refused where there is none, or several.
        """
        from hotpatch.update import revert as reverting  # noqa: PLC0415

        self._process.refresh()
        return reverting.find(self._process, patch_id)


def apply(
    pid: int,
    path: str | os.PathLike[str],
    timeout: float = 10.0,
    max_pause_ms: float | None = None,
    on_progress: OnProgress | None = None,
    replace: Sequence[str] = (),
    force: bool = False,
    update_points: Sequence[str] = (),
    transfer_timeout: float = TRANSFER_TIMEOUT,
    rehearse: bool = True,
    require_types: bool = False,
    probation: float | None = None,
    health: str | None = None,
) -> Result:
    """Apply the patch at `path` to process `pid`; see Target.apply."""
    with Target(pid) as target:
        return target.apply(
            path,
            timeout,
            max_pause_ms,
            on_progress,
            replace,
            force,
            update_points,
            transfer_timeout,
            rehearse,
            require_types,
            probation,
            health,
        )


def check(
    pid: int,
    path: str | os.PathLike[str],
    replace: Sequence[str] = (),
    force: bool = False,
    update_points: Sequence[str] = (),
    require_types: bool = False,
) -> Plan:
    """Return the plan of applying the patch at `path` to process `pid`; see Target.plan."""
    with Target(pid) as target:
        return target.plan(path, replace, force, update_points, require_types)


def revert(
    pid: int,
    patch_id: str | None = None,
    timeout: float = 10.0,
    max_pause_ms: float | None = None,
    on_progress: OnProgress | None = None,
    transfer_timeout: float = TRANSFER_TIMEOUT,
) -> Result:
    """Take a patch out of process `pid`; see Target.revert."""
    with Target(pid) as target:
        return target.revert(patch_id, timeout, max_pause_ms, on_progress, transfer_timeout)


def patches(pid: int) -> list[ledger.Entry]:
    """Return the records of patches in process `pid`, the oldest first."""
    with Target(pid) as target:
        return target.patches()


def stacks(pid: int, functions: Sequence[str] = ()) -> Backtrace:
    """Return what every thread of process `pid` is doing; see Target.stacks."""
    with Target(pid) as target:
        return target.stacks(functions)

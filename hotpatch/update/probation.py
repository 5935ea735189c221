# SPDX-License-Identifier: GPL-2.0-or-later
"""Probation: for some time after the commit, a failure of the new code takes it out again.

The target runs, traced but not stopped (`hotpatch.linux.watch`). When a thread is about to get a
signal that ends programs, and stands in the new code or was called from there, the switch goes
back before the signal is delivered: whoever survives it, by a handler, or as the workers that
the program forks next, runs the old code. Other threads may be in new code at that moment and
finish it; the failing one can't be waited for. A patch that has carried state over stays in: its
old code can't work with the new state.

A health command that fails reverts the patch as `hotpatch revert` does.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import NamedTuple

from hotpatch.errors import Gone, HotpatchError, RolledBack
from hotpatch.linux import procfs, watch
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.update.health import Health
from hotpatch.update.result import Progress, Result
from hotpatch.update.session import Options, Session
from hotpatch.update.watcher import Watcher

_TICK, _LOOK = 0.1, 0.01
_HANDLER_TIME, _DUMP_TIME = 1.0, 60.0  # a core dump may be large


class Probation(NamedTuple):
    """How long to watch, in seconds, and a shell command that says whether all is well."""

    seconds: float
    health: str | None = None


def probe(
    process: Process, patch: PatchFile, result: Result, probation: Probation, options: Options
) -> Result:
    """Watch a process that `patch` was just applied to; return the result with what was seen.

    Raises RolledBack where the patch was taken out, Gone where the process ended.
    """
    process.refresh()
    entry = next((e for e in process.patches if e.record.id == result.patch.id), None)
    if entry is None or entry.switch != ledger.ON:
        return _noted(result, "it was reverted by somebody else before its probation began")
    watcher = Watcher(process, entry, patch, probation.seconds)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    try:
        watcher.start()
        failure = _wait(watcher, result, probation, options)
    finally:
        watcher.end()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if watcher.error is not None:
        raise watcher.error
    if watcher.crash is not None:
        raise _crashed(process, entry, watcher, options)
    if watcher.ended is not None:
        return _ended(process, result, watcher.ended)
    if failure is not None:
        raise _unhealthy(process, result, failure, options)
    return result


def _wait(watcher: Watcher, result: Result, probation: Probation, options: Options) -> str | None:
    """Wait for the end of the probation; return why the health command says it has failed."""
    began = time.monotonic()
    health = None
    if probation.health:
        health = Health(probation.health, probation.seconds, result)
    watcher.begun.wait()
    try:
        while watcher.is_alive():
            watcher.join(_TICK)
            elapsed = time.monotonic() - began
            if options.on_progress is not None:
                options.on_progress(
                    Progress("probation", 0, min(elapsed, probation.seconds), probation.seconds, ())
                )
            if health is not None and (failure := health.failure()):
                return failure
        last = health.last() if health and not watcher.crash and not watcher.ended else None
        return last
    finally:
        if health is not None:
            health.end()


def _crashed(
    process: Process, entry: ledger.Entry, watcher: Watcher, options: Options
) -> HotpatchError:
    """Return the error for new code that failed; give its memory back if the target lives on."""
    crash = watcher.crash
    assert crash is not None
    name = signal.Signals(crash.signal).name
    where = f" at {crash.frames[0]}" if crash.frames else ""
    what = f"thread {crash.tid} got {name} in new code{where}"
    details = {"signal": name, "tid": crash.tid, "frames": crash.frames}
    if _dies(process, crash.signal):
        return Gone(
            f"{what}; the process has ended by it",
            "the patch was taken out before the signal was delivered" if crash.reverted else "",
            **details,
        )
    if not crash.reverted:
        return RolledBack(
            f"{what}; {entry.record.name} has carried state over and stays applied",
            "revert it by hand, when no thread is in its code",
            **details,
        )
    _tidy(process, options)
    return RolledBack(
        f"{what}; {entry.record.name} was taken out before the signal was delivered",
        "the target runs its old code; mend the patch",
        **details,
    )


def _dies(process: Process, number: int) -> bool:
    """Tell whether a process ends by a signal; a handler has a moment to show what it does."""
    try:
        caught = int(procfs.status(process.pid)["SigCgt"], 16) >> (number - 1) & 1
    except (OSError, KeyError):
        return True
    deadline = time.monotonic() + (_HANDLER_TIME if caught else _DUMP_TIME)
    while process.alive() and time.monotonic() < deadline:
        time.sleep(_LOOK)
    return not process.alive()


def _tidy(process: Process, options: Options) -> None:
    """Remove what is left of a patch that was switched off; the next patcher does it otherwise."""
    from hotpatch.update.recover import recover  # noqa: PLC0415

    with contextlib.suppress(HotpatchError, OSError):
        process.lock()
        try:
            process.refresh()
            recover(Session(process, options._replace(on_progress=None)))
        finally:
            process.unlock()


def _ended(process: Process, result: Result, ended: watch.Ended) -> Result:
    if ended.replaced:
        return _noted(result, "the process has begun another program during the probation")
    how = f"was killed by {signal.Signals(ended.signal).name}" if ended.signal else "ended"
    raise Gone(
        f"process {process.pid} {how} during the probation, and not in new code",
        "see its own log",
    )


def _unhealthy(process: Process, result: Result, failure: str, options: Options) -> HotpatchError:
    """Revert the patch as the health command failed; return the error that says so."""
    from hotpatch.update.revert import revert  # noqa: PLC0415

    process.refresh()
    try:
        revert(process, result.patch.id, options._replace(on_progress=None))
    except HotpatchError as error:
        return type(error)(
            f"{failure}; {result.patch.name} should be reverted, but {error.reason}",
            error.hint,
        )
    return RolledBack(
        f"{failure}; {result.patch.name} was reverted", "the target runs its old code"
    )


def _noted(result: Result, warning: str) -> Result:
    return result._replace(warnings=(*result.warnings, warning))

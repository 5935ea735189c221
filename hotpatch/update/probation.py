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
import struct
import threading
import time
from typing import NamedTuple

from hotpatch.arch.registers import Registers
from hotpatch.errors import Gone, HotpatchError, RolledBack
from hotpatch.linux import procfs, ptrace, watch
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence.places import Places
from hotpatch.quiescence.unwind import Unwinder
from hotpatch.update.failure import Image, place_of
from hotpatch.update.health import Health
from hotpatch.update.result import Progress, Result
from hotpatch.update.session import Options, Session

_FATAL = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP,
     signal.SIGSYS)
)  # fmt: skip
_SI_TKILL = -6  # siginfo_t.si_code of tgkill(2), by which abort(3) and raise(3) work
_MOST_FRAMES = 32
_TICK, _LOOK = 0.1, 0.01
_HANDLER_TIME, _DUMP_TIME = 1.0, 60.0  # a core dump may be large


class Crash(NamedTuple):
    """A fatal signal in new code."""

    tid: int
    signal: int
    frames: tuple[str, ...]
    """Where it was, innermost first."""
    reverted: bool


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
    watcher = _Watcher(process, entry, _image(entry.record, patch), probation.seconds)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
    try:
        watcher.start()
        failure = _wait(watcher, result, probation, options)
    finally:
        watcher.asked.set()
        watcher.join()
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


class _Watcher(threading.Thread):
    """The thread that traces the target; what it saw is in its attributes when it has ended."""

    def __init__(self, process: Process, entry: ledger.Entry, image: Image, seconds: float) -> None:
        super().__init__(name="hotpatch-probation", daemon=True)
        self.asked = threading.Event()
        self.begun = threading.Event()
        self.crash: Crash | None = None
        self.ended: watch.Ended | None = None
        self.error: BaseException | None = None
        self._process = process
        self._entry = entry
        self._image = image
        self._seconds = seconds
        self._unwinder = Unwinder(process)

    def run(self) -> None:
        """Watch until the time is over, or the patch has failed."""
        try:
            self.ended = watch.watch(
                self._process.pid,
                self._judge,
                watch.until(self._seconds, self.asked.is_set),
                self.begun.set,
            )
        except BaseException as error:
            self.error = error
        finally:
            self.begun.set()

    def _judge(self, tid: int, number: int) -> None:
        """Take the patch out if a signal is the failure of its code."""
        if self.crash is not None or number not in _FATAL or not self._own_doing(tid):
            return
        registers = Registers()
        ptrace.get_registers(tid, registers)
        stack = self._unwinder.unwind(registers, self._process.read, _MOST_FRAMES)
        code = self._entry.record.code
        if not any(
            start <= frame.pc - frame.call < start + size
            for frame in stack.frames
            for start, size in code
        ):
            return
        reverted = self._switch_off()
        places = Places(self._process)
        frames = tuple(place_of(places, frame, self._image) for frame in stack.frames if frame.pc)
        self.crash = Crash(tid, number, frames, reverted)
        self.asked.set()

    def _own_doing(self, tid: int) -> bool:
        """Tell whether a signal comes of what the thread does, not from another process."""
        info = ptrace.get_siginfo(tid)
        sender = info.address & 0xFFFFFFFF
        return info.code > 0 or (info.code == _SI_TKILL and sender in _names(self._process.pid))

    def _switch_off(self) -> bool:
        """Turn all functions of the patch back, unless the old code can't work with its state."""
        transfer = self._entry.record.transfer
        if transfer is not None and transfer.carried:
            return False
        memory, address = self._process.memory, self._entry.address
        memory.write(address + ledger.STATE_OFFSET, struct.pack("<I", ledger.REVERTING))
        memory.write(address + ledger.SWITCH_OFFSET, struct.pack("<I", ledger.OFF))
        return self._process.read(address + ledger.SWITCH_OFFSET, 4) == struct.pack(
            "<I", ledger.OFF
        )


def _image(record: ledger.Record, patch: PatchFile) -> Image:
    """Return where the image of a patch lies."""
    values = {replacement.name: replacement.value for replacement in patch.replacements}
    bias = next((f.new - values[f.name] for f in record.replaced if f.name in values), 0)
    start, size = record.regions[0]
    return Image(patch.elf, bias, start, start + size)


def _names(pid: int) -> set[int]:
    """Return the numbers of a process, in our pid namespace and in those within."""
    return {pid, *map(int, procfs.status(pid).get("NSpid", "").split())}


def _wait(watcher: _Watcher, result: Result, probation: Probation, options: Options) -> str | None:
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
    process: Process, entry: ledger.Entry, watcher: _Watcher, options: Options
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

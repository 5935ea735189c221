# SPDX-License-Identifier: GPL-2.0-or-later
"""Seeing a patch fail: the thread that traces the target during a probation."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.arch import frames
from hotpatch.arch.registers import Registers
from hotpatch.linux import procfs, ptrace, watch
from hotpatch.patch.file import PatchFile
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.quiescence.places import Places
from hotpatch.quiescence.unwind import Frame, Unwinder
from hotpatch.update.failure import Image, place_of

_FATAL = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP,
     signal.SIGSYS)
)  # fmt: skip
_SI_TKILL = -6  # siginfo_t.si_code of tgkill(2), by which abort(3) and raise(3) work
_MOST_FRAMES = 32
_SOON = 0.0001  # seconds


class Crash(NamedTuple):
    """A fatal signal in new code."""

    tid: int
    signal: int
    frames: tuple[str, ...]
    """Where it was, innermost first."""
    reverted: bool


class Watcher(threading.Thread):
    """The thread that traces the target; what it saw is in its attributes when it has ended."""

    def __init__(
        self, process: Process, entry: ledger.Entry, patch: PatchFile, seconds: float
    ) -> None:
        """Prepare to watch a process with the entry of a patch that was just applied."""
        super().__init__(name="hotpatch-probation", daemon=True)
        self.asked = threading.Event()
        self.begun = threading.Event()
        self.crash: Crash | None = None
        self.ended: watch.Ended | None = None
        self.error: BaseException | None = None
        self._process = process
        self._entry = entry
        self._image = _image(entry.record, patch)
        self._seconds = seconds
        self._unwinder = Unwinder(process)

    def run(self) -> None:
        """Watch until the time is over, or the patch has failed."""
        try:
            tracing = watch.Watch(self._process.pid, self._judge, self._process.restarter)
            goes_on = watch.until(self._seconds, self.asked.is_set)
            self.ended = tracing.run(goes_on, self.begun.set)
        except BaseException as error:
            self.error = error
        finally:
            self.begun.set()

    def end(self) -> None:
        """Let go of the target, by the end of this thread; it has ended when this returns.

        That of its Python part, which `join` waits for, comes before that of the tracer.
        """
        self.asked.set()
        self.join()
        while os.path.exists(f"/proc/self/task/{self.native_id}"):  # noqa: PTH110
            time.sleep(_SOON)

    def _judge(self, tid: int, number: int) -> None:
        """Take the patch out if a signal is the failure of its code."""
        if self.crash is not None or number not in _FATAL or not self._own_doing(tid):
            return
        registers = Registers()
        ptrace.get_registers(tid, registers)
        stack = self._stack(registers)
        code = self._entry.record.code
        if not any(
            start <= frame.pc - frame.call < start + size for frame in stack for start, size in code
        ):
            return
        reverted = self._switch_off()
        places = Places(self._process)
        calls = tuple(place_of(places, frame, self._image) for frame in stack if frame.pc)
        self.crash = Crash(tid, number, calls, reverted)
        self.asked.set()

    def _stack(self, registers: Registers) -> Sequence[Frame]:
        """Return the frames of the failing thread.

        Where it has called what is no code, the return address is still the top of the stack.
        """
        read = self._process.read
        stack = self._unwinder.unwind(registers, read, _MOST_FRAMES).frames
        if stack[0].cfa or self._process.code_at(registers.rip) is not None:
            return stack
        values = frames.values_of(registers)
        try:
            values[frames.RETURN_ADDRESS] = int.from_bytes(read(registers.rsp, 8), "little")
        except OSError:
            return stack
        values[frames.RSP] = registers.rsp + 8
        return (*stack, *self._unwinder.unwind_from(values, read, True, _MOST_FRAMES).frames)

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

# SPDX-License-Identifier: GPL-2.0-or-later
"""Unwinding a stack precisely, to tell frames from stale words.

    stack = Unwinder(process).unwind(thread.registers, read)

Each frame's caller is found by call frame information alone. Nothing is guessed: a stack is
`complete` only when every step was by such rules and the last frame is said to have no caller:
its return address is undefined (DWARF 5, 6.4.4). One that is 0 is no such thing. It is what a read
of the wrong word gives most often, where rules are wrong for an instruction or two.
What was learnt of the code is kept from one stack to the next, so a frame whose program counter
was seen before costs some microseconds.

A complete stack of a thread that runs on a coroutine's stack ends where the coroutine began: it
says nothing of the frames on other stacks that the coroutine will switch to.
"""

from __future__ import annotations

from struct import error as StructError
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import frames as arch
from hotpatch.dwarf.cursor import ADDRESS_MASK, DwarfError
from hotpatch.elf.file import ElfError
from hotpatch.errors import Gone
from hotpatch.quiescence.code import Code
from hotpatch.quiescence.rules import Read, Step, Values, apply, lost, prepare

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hotpatch.arch.registers import Registers
    from hotpatch.linux.procfs import Mapping
    from hotpatch.process.image import Process


_PAGE, _PIECE = 4096, 16384


class Frame(NamedTuple):
    """An active call. `cfa` is the value of rsp before the call, so its return address lies below.

    It is 0 where it could not be found, in the last frame of a stack that is not complete.
    `call`: `pc` is a return address, so the call is at `pc` - 1. False for the innermost frame,
    for that of a signal and for the one that the signal interrupted.
    """

    pc: int
    cfa: int
    call: bool


class Stack(NamedTuple):
    """The frames of a thread, innermost first.

    `complete`: the last one is the outermost, by its call frame information; else `reason` says
    why the frames beyond it were not found.
    """

    frames: tuple[Frame, ...]
    complete: bool
    reason: str


class _Lost(Exception):
    """The frame that no caller was found for, and why."""

    def __init__(self, frame: Frame, why: Exception) -> None:
        super().__init__(f"{frame.pc:#x} has no known caller: {why}")
        self.frame = frame


class Unwinder:
    """Unwinds stacks of one process, as its memory map was when `process` read it."""

    def __init__(self, process: Process) -> None:
        """Prepare; nothing is read before it is needed."""
        self._process = process
        self._mapped: tuple[tuple[int, ...], ...] | None = None
        self._forget()

    def _forget(self) -> None:
        self._code = Code(self._process)
        # By the address that rules are looked up for; negative for frames that made no call.
        self._steps: dict[int, Step] = {}
        self._without: dict[int, str] = {}

    def follow(self, mappings: Iterable[Mapping]) -> bool:
        """Take a newer memory map, in which libraries may have come and gone.

        Where other files have code in it than before, `process` is refreshed and what was learnt
        is forgotten; that is returned. Made for the time before a stop.
        """
        mapped = _code_mappings(mappings)
        if self._mapped is None:
            self._mapped = _code_mappings(self._process.mappings)
        if mapped != self._mapped:
            self._mapped = mapped
            self._process.refresh()
            len(self._process.modules)  # opens the files now
            self._forget()
            return True
        return False

    def step(self, frame: Frame) -> Step:
        """Return how the caller of a frame is found; raises DwarfError, ElfError, OSError."""
        key = frame.pc - 1 if frame.call else -frame.pc
        return self._steps.get(key) or self._step(frame.pc, frame.call)

    def unwind(self, registers: Registers, read: Read, limit: int = 2000) -> Stack:
        """Return the frames of a stopped thread, `limit` at most.

        `read` gives memory of its stacks: (address, size) to bytes, OSError where there is none.
        Raises Gone.
        """
        return self._unwind(arch.values_of(registers), read, False, limit)

    def unwind_from(self, values: Values, read: Read, call: bool, limit: int = 2000) -> Stack:
        """Return the frames of a stack from what is known of its registers.

        `values` has at least a program counter, which is a return address if `call`.
        """
        return self._unwind(values, read, call, limit)

    def _unwind(self, values: Values, read: Read, call: bool, limit: int) -> Stack:
        frames: list[Frame] = []
        try:
            complete = self._walk(values, _Window(read), frames, call, limit)
        except _Lost as error:
            return Stack((*frames, error.frame), False, str(error))
        return Stack(tuple(frames), complete, "" if complete else f"more than {limit} frames")

    def _walk(
        self, values: Values, read: Read, frames: list[Frame], call: bool, limit: int
    ) -> bool:
        """Append frames up to the outermost; return whether it was reached within the limit.

        One long loop, as a call of a function would cost a tenth of what a frame does.
        """
        steps, stack_pointer, return_address = self._steps, arch.RSP, arch.RETURN_ADDRESS
        pc, lower = values[return_address] or 0, -1
        try:
            for _ in range(limit):
                step = steps.get(pc - 1 if call else -pc) or self._step(pc, call)
                register, offset, low, size, unpack, saved, row, outermost = step
                if row is None:
                    base = values[register]
                    if base is None:
                        raise lost(register)
                    cfa = base + offset & ADDRESS_MASK
                    words = unpack(read(cfa + low & ADDRESS_MASK, size))
                    if not call:
                        for register in arch.LOST_IN_CALLS:
                            values[register] = None
                    for register, index in saved:
                        values[register] = words[index]
                    values[stack_pointer] = cfa
                else:
                    cfa = apply(row, values, read)
                    if row.signal:  # the handler may have had a stack of its own
                        call, lower = False, -1
                if cfa <= lower:
                    raise DwarfError(f"its frame ends at {cfa:#x}, not above that of its callee")
                frames.append(Frame(pc, cfa, call))
                if outermost:
                    return True
                pc, call = values[return_address] or 0, not (row and row.signal)
                lower = cfa if call else cfa - 1  # what is interrupted may have no frame any more
        except (DwarfError, ElfError, OSError, StructError) as error:
            if isinstance(error, Gone):
                raise
            raise _Lost(Frame(pc, 0, call), error) from None
        return False

    def _step(self, pc: int, call: bool) -> Step:
        """Return what to do at a program counter that was not seen before; or raise again."""
        key = pc - 1 if call else -pc
        if key in self._without:
            raise DwarfError(self._without[key])
        try:
            step = self._steps[key] = prepare(self._code.row(pc, call))
        except (DwarfError, ElfError) as error:
            self._without[key] = str(error)
            raise
        return step


def _code_mappings(mappings: Iterable[Mapping]) -> tuple[tuple[int, ...], ...]:
    code = (m for m in mappings if m.inode and "x" in m.protection)
    return tuple((m.start, m.end, m.offset, m.inode) for m in code)


class _Window:
    """Reads memory in pieces larger than asked for, upwards, as unwinding goes."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._start = 0
        self._data = b""
        self._pieces = [_PIECE, _PAGE]  # a stack may end before the end of either

    def __call__(self, address: int, size: int) -> bytes:
        at = address - self._start
        if at < 0 or at + size > len(self._data):
            self._data, self._start, at = self._fill(address, size), address, 0
        return self._data[at : at + size]

    def _fill(self, address: int, size: int) -> bytes:
        for piece in tuple(self._pieces):
            larger = (address & -_PAGE) + piece - address
            data = self._try(address, larger) if larger > size else None
            if data is not None:
                return data
            self._pieces.remove(piece)
        return self._read(address, size)

    def _try(self, address: int, size: int) -> bytes | None:
        try:
            data = self._read(address, size)
        except Gone:
            raise
        except OSError:
            return None
        return data if len(data) == size else None

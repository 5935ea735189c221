# SPDX-License-Identifier: GPL-2.0-or-later
"""Unwinding a stack precisely, to tell frames from stale words.

    stack = Unwinder(process).unwind(thread.registers, read)

Each frame's caller is found by call frame information alone. Nothing is guessed: a stack is
`complete` only when each step was by such rules and the last frame is said to have no caller.
What is known of the code of a process is kept from one stack to the next, so a frame whose
program counter was seen before costs some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import frames as arch
from hotpatch.arch.sigframe import RESTORERS
from hotpatch.dwarf import cfi
from hotpatch.dwarf.cfi import Cfa, Row, Rule
from hotpatch.dwarf.cursor import ADDRESS_MASK, DwarfError
from hotpatch.dwarf.expression import evaluate
from hotpatch.dwarf.file import CallFrames
from hotpatch.elf.constants import PT_LOAD
from hotpatch.elf.file import ElfError, ElfFile
from hotpatch.errors import Gone

if TYPE_CHECKING:
    from hotpatch.arch.registers import Registers
    from hotpatch.process.image import Process
    from hotpatch.process.modules import Module

ReadMemory = Callable[[int, int], bytes]

_WORD = 8
_WIDEST = 64  # words below the CFA that are read at once


class Frame(NamedTuple):
    """An active call. `cfa` is the value of rsp before the call, so its return address lies below.

    It is 0 where it could not be found, in the last frame of a stack that is not complete.
    `call`: `pc` is a return address, so the call is at `pc` - 1. False for the innermost frame and
    for one that a signal interrupted.
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


class _Step(NamedTuple):
    """A row made ready: most say CFA = register + offset, and registers saved below it.

    Then `unpack` takes the `size` bytes that begin `low` bytes above (mostly below) the CFA, and
    `saved` are (register, index of the word). For all others there is `row`.
    """

    register: int
    offset: int
    low: int
    size: int
    unpack: Callable[[bytes], tuple[int, ...]]
    saved: tuple[tuple[int, int], ...]
    row: Row | None
    outermost: bool


class _Lost(Exception):
    """Where and why a stack can't be unwound any further."""

    def __init__(self, pc: int, call: bool, reason: str) -> None:
        super().__init__(reason)
        self.pc = pc
        self.call = call
        self.reason = reason


class Unwinder:
    """Unwinds stacks of one process, as its memory map was when `process` read it."""

    def __init__(self, process: Process) -> None:
        """Prepare; nothing is read before it is needed."""
        self._process = process
        self._steps: dict[int, _Step] = {}
        self._frames: dict[int, CallFrames] = {}
        self._vdso: tuple[int, ElfFile] | None = None

    def unwind(self, registers: Registers, read: ReadMemory, limit: int = 2000) -> Stack:
        """Return the frames of a stopped thread, `limit` at most.

        `read` gives memory of its stacks: (address, size) to bytes, OSError where there is none.
        Raises Gone.
        """
        frames: list[Frame] = []
        try:
            complete = self._walk(arch.values_of(registers), read, frames, limit)
            reason = "" if complete else f"more than {limit} frames"
        except _Lost as error:
            frames.append(Frame(error.pc, 0, error.call))
            complete, reason = False, error.reason
        return Stack(tuple(frames), complete, reason)

    def _walk(
        self, values: list[int | None], read: ReadMemory, frames: list[Frame], limit: int
    ) -> bool:
        """Append frames up to the outermost; return whether it was reached within the limit."""
        steps, stack_pointer, return_address = self._steps, arch.RSP, arch.RETURN_ADDRESS
        pc, call, lower = values[return_address] or 0, False, -1
        try:
            for _ in range(limit):
                step = steps.get(pc - call) or self._step(pc, call)
                register, offset, low, size, unpack, saved, row, outermost = step
                if row is None:
                    base = values[register]
                    if base is None:
                        raise DwarfError(f"{_name(register)} is lost")
                    cfa = base + offset & ADDRESS_MASK
                    words = unpack(read(cfa + low & ADDRESS_MASK, size))
                    if not call:
                        for register in arch.LOST_IN_CALLS:
                            values[register] = None
                    for register, index in saved:
                        values[register] = words[index]
                    values[stack_pointer] = cfa
                else:
                    cfa, lower = _apply(row, values, read), -1 if row.signal else lower
                if cfa <= lower:
                    raise DwarfError(f"its frame, up to {cfa:#x}, is not above its callee's")
                frames.append(Frame(pc, cfa, call))
                if outermost or not values[return_address]:
                    return True
                pc, call, lower = values[return_address] or 0, not (row and row.signal), cfa
        except (DwarfError, ElfError, OSError, StructError) as error:
            if isinstance(error, Gone):
                raise
            raise _Lost(pc, call, f"{pc:#x} has no known caller: {error}") from None
        return False

    def _step(self, pc: int, call: bool) -> _Step:
        """Return what to do at a program counter that was not seen before."""
        row = self._row(pc, call)
        step = _compile(row)
        self._steps[pc - call] = step
        return step

    def _row(self, pc: int, call: bool) -> Row:
        """Return the rules for a program counter; raises DwarfError where there are none."""
        found = self._file_at(pc - call)
        if found is None:
            raise DwarfError("it is in no file that is mapped")
        bias, elf, frames = found
        row = frames.row(pc - call - bias)
        code = _code(elf, pc - bias, arch.LONGEST_RESTORER)
        # Code that calls rt_sigreturn is what it is, even if nothing is said of it.
        if code.startswith(RESTORERS) and not (row and row.signal):
            return _SIGNAL_ROW
        if row is None:
            raise DwarfError("there is no call frame information for it")
        before = _code(elf, pc - bias - arch.LONGEST_CALL, arch.LONGEST_CALL)
        if call and not row.signal and not arch.ends_with_call(before):
            raise DwarfError("there is no call before it")
        return row

    def _file_at(self, address: int) -> tuple[int, ElfFile, CallFrames] | None:
        """Return the load bias, the file, and its call frame information."""
        module = self._process.module_at(address)
        if module is None:
            return self._in_vdso(address)
        frames = self._frames.get(module.start)
        if frames is None:
            frames = self._frames[module.start] = CallFrames.of_file(
                module.elf, lambda: _debug_file(self._process, module)
            )
        return module.bias, module.elf, frames

    def _in_vdso(self, address: int) -> tuple[int, ElfFile, CallFrames] | None:
        """Return the same for the kernel's own shared object, which is only in memory."""
        mapping = next((m for m in self._process.mappings if m.start <= address < m.end), None)
        if mapping is None or mapping.path != "[vdso]":
            return None
        if self._vdso is None:
            content = self._process.read(mapping.start, mapping.end - mapping.start)
            elf = ElfFile.from_bytes(content, mapping.path)
            lowest = min((s.vaddr for s in elf.segments if s.type == PT_LOAD), default=0)
            self._vdso = mapping.start - lowest, elf
            self._frames[mapping.start] = CallFrames.of_file(elf)
        return *self._vdso, self._frames[mapping.start]


def describe(process: Process, frame: Frame) -> str:
    """Return a frame's place as `function+0x12 (module)`, as well as symbols allow."""
    symbolic = process.symbolic(frame.pc - frame.call)
    if symbolic is None:
        return f"{frame.pc:#x}"
    return str(symbolic._replace(offset=symbolic.offset + frame.call))


def _debug_file(process: Process, module: Module) -> ElfFile | None:
    from hotpatch.elf.debuglink import find_debug_file  # noqa: PLC0415 - seldom needed

    try:
        path = find_debug_file(module.path.removesuffix(" (deleted)"), module.elf)
        return ElfFile.open(path) if path else None
    except (OSError, ElfError):
        return None


def _code(elf: ElfFile, vaddr: int, size: int) -> bytes:
    """Return code of a file, b"" where it ends before."""
    try:
        return elf.read(vaddr, size)
    except ElfError:
        return b""


def _compile(row: Row) -> _Step:
    """Make a row ready."""
    cfa, rules = row.cfa, row.rules
    outermost = _is_outermost(row)
    saved = {r: rule.value for r, rule in rules.items() if rule.kind == cfi.OFFSET}
    plain = (
        cfa.expression is None
        and len(saved) == len(rules)
        and row.return_address == arch.RETURN_ADDRESS
        and arch.RETURN_ADDRESS in saved
        and max(rules) <= arch.RETURN_ADDRESS
        and arch.RSP not in rules
        and not row.signal
        and all(value % _WORD == 0 for value in saved.values())
    )
    low = min(saved.values(), default=0)
    count = (max(saved.values(), default=0) - low) // _WORD + 1
    if not plain or count > _WIDEST:
        return _Step(0, 0, 0, 0, _nothing, (), row, outermost)
    indices = tuple((register, (value - low) // _WORD) for register, value in saved.items())
    unpack = Struct(f"<{count}Q").unpack
    return _Step(cfa.register, cfa.offset, low, count * _WORD, unpack, indices, None, outermost)


def _is_outermost(row: Row) -> bool:
    """Say whether a function has no caller (DWARF 5, 6.4.4: an undefined return address)."""
    rule = row.rules.get(row.return_address)
    return rule is not None and rule.kind == cfi.UNDEFINED


def _nothing(_: bytes) -> tuple[int, ...]:
    return ()


_breg_rsp = bytes((0x70 + arch.RSP,))


def _at_rsp(offset: int) -> bytes:
    """Return DW_OP_breg7 with an offset below 8192, in two bytes of SLEB128."""
    return _breg_rsp + bytes((offset & 0x7F | 0x80, offset >> 7))


# What glibc's __restore_rt says of itself, for C libraries whose says nothing.
_SIGNAL_ROW = Row(
    0,
    Cfa(0, 0, _at_rsp(dict(arch.SIGNAL_FRAME)[arch.RSP]) + b"\x06"),
    {number: Rule(cfi.EXPRESSION, 0, _at_rsp(offset)) for number, offset in arch.SIGNAL_FRAME},
    arch.RETURN_ADDRESS,
    True,
)


def _apply(row: Row, values: list[int | None], read: ReadMemory) -> int:
    """Replace a frame's registers by its caller's, by any kind of rule; return the CFA."""
    old = tuple(values)
    cfa = values[arch.RSP] = _cfa(row.cfa, old, read)
    if not row.signal:
        for register in arch.LOST_IN_CALLS:
            values[register] = None
    values[arch.RETURN_ADDRESS] = None
    for register, rule in row.rules.items():
        if register < len(values):
            values[register] = _value(rule, register, cfa, old, read)
    if row.return_address < len(values):
        values[arch.RETURN_ADDRESS] = values[row.return_address]
    if values[arch.RETURN_ADDRESS] is None and not _is_outermost(row):
        raise DwarfError("its return address is lost")
    return cfa


def _cfa(rule: Cfa, old: tuple[int | None, ...], read: ReadMemory) -> int:
    if rule.expression is not None:
        return evaluate(rule.expression, old, read)
    base = old[rule.register] if rule.register < len(old) else None
    if base is None:
        raise DwarfError(f"{_name(rule.register)} is lost")
    return (base + rule.offset) & ADDRESS_MASK


def _value(
    rule: Rule, register: int, cfa: int, old: tuple[int | None, ...], read: ReadMemory
) -> int | None:
    if rule.kind == cfi.OFFSET:
        return _word(read, cfa + rule.value)
    if rule.kind == cfi.EXPRESSION:
        return _word(read, evaluate(rule.expression, old, read, cfa))
    if rule.kind == cfi.VAL_EXPRESSION:
        return evaluate(rule.expression, old, read, cfa)
    if rule.kind == cfi.VAL_OFFSET:
        return (cfa + rule.value) & ADDRESS_MASK
    if rule.kind == cfi.REGISTER:
        return old[rule.value] if rule.value < len(old) else None
    return old[register] if rule.kind == cfi.SAME_VALUE else None


def _word(read: ReadMemory, address: int) -> int:
    word: int = _U8.unpack(read(address & ADDRESS_MASK, _WORD))[0]
    return word


_U8 = Struct("<Q")


def _name(register: int) -> str:
    if register < len(arch.DWARF_REGISTERS):
        return arch.DWARF_REGISTERS[register]
    return f"register {register}"

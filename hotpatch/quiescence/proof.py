# SPDX-License-Identifier: GPL-2.0-or-later
"""What the frames of a stack follow from: as long as that is the same, so are the frames.

Unwinding a stack of fifty frames takes longer than a thread should be held for, and there may be a
thousand of them. But where it leads depends on little: the program counter, the stack pointer, the
return addresses, and those saved registers that a frame is found by. They are known of a stack that
was unwound once, and to see whether a stopped thread has the same takes some microseconds. If it
has, unwinding its stack now would give the same frames, word by word; whatever it was that was
unwound then, even if the thread was running. Local variables and all other registers may differ.

Where a frame is found only by adding to the stack pointer or to a register that was saved, it makes
no difference at which address the stack lies. So such a `Shape` serves for every thread that has
come the same way to the same place.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, Any

from hotpatch.arch import frames as arch
from hotpatch.dwarf.cursor import ADDRESS_MASK, DwarfError
from hotpatch.elf.file import ElfError
from hotpatch.errors import Gone
from hotpatch.quiescence.rules import Read, Step, apply, lost
from hotpatch.quiescence.unwind import Frame, Stack, Unwinder

if TYPE_CHECKING:
    from hotpatch.arch.registers import Registers
    from hotpatch.dwarf.cfi import Row

_WORD = 8
_FAR = 4096  # words further apart are read as pieces: less work than reading what is between


class Shape:
    """A stack wherever it lies: what it consists of, by distance from the stack pointer.

    `pieces` are the (distance, size) of memory that has the words that matter, `layout` is the
    struct format that takes these from it, and `size` that of all pieces.
    """

    def __init__(self, stack: Stack, trace: _Trace) -> None:
        """Take what was found; one that is not `movable` is right for one stack pointer only."""
        rsp = trace.rsp
        addresses = sorted(trace.words)
        self.movable = stack.complete and not trace.fixed
        self.pc = stack.frames[0].pc
        self.pcs = tuple(frame.pc for frame in stack.frames)
        self.complete, self._reason = stack.complete, stack.reason
        self._frames = tuple((pc, cfa - rsp, call) for pc, cfa, call in stack.frames)
        self._rsp = rsp
        self._registers = tuple((name, value - rsp) for name, value in trace.registers.items())
        self._has_pointers = bool(trace.pointers)
        self._pointers = tuple(address in trace.pointers for address in addresses)
        self._words = tuple(
            trace.words[address] - (rsp if pointer else 0)
            for address, pointer in zip(addresses, self._pointers, strict=True)
        )
        self.pieces, self.layout = _layout([address - rsp for address in addresses])
        self.size = sum(size for _, size in self.pieces)
        self._take = Struct(f"<{self.layout}").unpack_from

    def fits(self, registers: Registers) -> bool:
        """Say whether a thread's registers, the stack pointer aside, are those of the shape."""
        rsp = registers.rsp
        if registers.rip != self.pc or not (self.movable or rsp == self._rsp):
            return False
        return all(getattr(registers, name) - rsp == value for name, value in self._registers)

    def words(self, rsp: int) -> tuple[int, ...]:
        """Return the words, with this stack pointer."""
        if not self._has_pointers:
            return self._words
        pairs = zip(self._words, self._pointers, strict=True)
        return tuple(word + rsp if pointer else word for word, pointer in pairs)

    def words_in(self, data: bytes | bytearray, at: int) -> tuple[int, ...]:
        """Return those that are in memory; `data` has the pieces in a row, from `at` on."""
        return self._take(data, at)

    def cfas(self, rsp: int) -> Iterator[int]:
        """Return where its frames end."""
        return (rsp + cfa for _, cfa, _ in self._frames)

    def stack(self, rsp: int) -> Stack:
        """Return it as the unwinder would."""
        frames = tuple(Frame(pc, rsp + cfa, call) for pc, cfa, call in self._frames)
        return Stack(frames, self.complete, self._reason)


def _layout(addresses: list[int]) -> tuple[tuple[tuple[int, int], ...], str]:
    """Return the pieces of memory that words lie in, and the struct format of these."""
    pieces: list[tuple[int, int]] = []
    formats = []
    start = addresses[0] if addresses else 0
    for address, following in pairwise([*addresses, None]):
        assert address is not None
        end = address + _WORD
        formats.append("Q")
        if following is not None and following - end < _FAR:
            formats.append(f"{following - end}x")
        else:
            pieces.append((start, end - start))
            start = following or 0
    return tuple(pieces), "".join(formats)


class Proof:
    """What the frames of one thread follow from, where its registers and memory are so.

    `pieces` are the (address, size) of the memory, `words` those that have to be in it.
    """

    __slots__ = ("_fs_base", "pieces", "rsp", "shape", "words")

    def __init__(self, shape: Shape, registers: Registers) -> None:
        """Expect a thread with such registers, which the shape fits."""
        self.shape = shape
        self.rsp = registers.rsp
        self._fs_base = registers.fs_base  # tells which stack is its own
        self.pieces = tuple((self.rsp + at, size) for at, size in shape.pieces)
        self.words = shape.words(self.rsp)

    @property
    def stack(self) -> Stack:
        """Return what unwinding the thread would give."""
        return self.shape.stack(self.rsp)

    def has_registers(self, registers: Registers) -> bool:
        """Say whether a thread's registers are so."""
        if registers.rsp != self.rsp or registers.fs_base != self._fs_base:
            return False
        return self.shape.fits(registers)

    def has_words(self, data: bytes | bytearray, at: int = 0) -> bool:
        """Say whether memory is so; `data` has the pieces in a row, from `at` on."""
        return self.shape.words_in(data, at) == self.words


def prove(unwinder: Unwinder, registers: Registers, read: Read) -> Shape | None:
    """Unwind a stack and return what its frames follow from; None where that can't be told.

    `read` gives memory of its stacks. Raises Gone.
    """
    record = _Record(read)
    stack = unwinder.unwind(registers, record.read)
    trace = _Trace(registers, record.again)
    try:
        for frame in stack.frames if stack.complete else stack.frames[:-1]:
            if trace.pc != frame.pc or trace.follow(unwinder.step(frame), frame.call) != frame.cfa:
                return None
    except (DwarfError, ElfError, OSError) as error:
        if isinstance(error, Gone):
            raise
        return None
    return Shape(stack, trace)


class _Record:
    """Memory as it was read once: the thread may be running."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._pieces: list[tuple[int, bytes]] = []

    def read(self, address: int, size: int) -> bytes:
        """Read, and keep what was read."""
        data = self._read(address, size)
        self._pieces.append((address, data))
        return data

    def again(self, address: int, size: int) -> bytes:
        """Return what was read before; raises OSError for anything else."""
        for start, data in reversed(self._pieces):
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise OSError(14, f"{size} bytes at {address:#x} were not read")


class _Trace:
    """Goes through frames once more, and notes which values decide where that leads.

    `registers`, besides the program counter and the stack pointer, and `words` are those needed so
    far, `pointers` the addresses of words that a frame was found by. `fixed`: something was done
    with the values that can't be relied upon to be the same elsewhere.
    """

    def __init__(self, registers: Registers, read: Read) -> None:
        self.rsp = registers.rsp
        self.registers: dict[str, int] = {}
        self.words: dict[int, int] = {}
        self.pointers: set[int] = set()
        self.fixed = False
        self._read = read
        self._values: Any = arch.values_of(registers)
        # Where the values came from: a register of the thread, the address of a word, or None for
        # what follows from things that are noted already.
        self._origins: list[str | int | None] = [*arch.DWARF_REGISTERS]
        self._origins[arch.RSP] = self._origins[arch.RETURN_ADDRESS] = None

    @property
    def pc(self) -> int | None:
        """Return the program counter of the frame that it has come to."""
        pc: int | None = self._values[arch.RETURN_ADDRESS]
        return pc

    def follow(self, step: Step, call: bool) -> int:
        """Go to a frame's caller; return the frame's CFA."""
        if step.row is not None:
            return self._apply(step.row, step.outermost)
        values, origins = self._values, self._origins
        cfa = self._cfa(step.register, step.offset)
        low = cfa + step.low & ADDRESS_MASK
        words = step.unpack(self._read(low, step.size))
        for register in () if call else arch.LOST_IN_CALLS:
            values[register] = origins[register] = None
        for register, index in step.saved:
            values[register], origins[register] = words[index], low + index * _WORD
        values[arch.RSP], origins[arch.RSP] = cfa, None
        self._need(arch.RETURN_ADDRESS)
        return cfa

    def _apply(self, row: Row, outermost: bool) -> int:
        """Do the same for unusual rules: all that they could look at is needed."""
        if outermost and row.cfa.expression is None:
            return self._cfa(row.cfa.register, row.cfa.offset)
        self.fixed = True
        for register in range(len(self._origins)):
            self._need(register)
        return apply(row, self._values, self._read_needed)

    def _cfa(self, register: int, offset: int) -> int:
        """Return a register plus an offset; it is a pointer to the stack."""
        origin = self._origins[register]
        self._need(register)
        if isinstance(origin, int):
            self.pointers.add(origin)
        if self._values[register] is None:
            raise lost(register)
        cfa: int = self._values[register] + offset & ADDRESS_MASK
        return cfa

    def _need(self, register: int) -> None:
        origin, value = self._origins[register], self._values[register]
        if isinstance(origin, str):
            self.registers[origin] = value
        elif origin is not None:
            self._note(origin, value)
        self._origins[register] = None

    def _note(self, address: int, value: int) -> None:
        """Note a word; raises DwarfError where it was read before, and has changed since."""
        if address % _WORD or self.words.setdefault(address, value) != value:
            raise DwarfError(f"the word at {address:#x} can't be relied on")

    def _read_needed(self, address: int, size: int) -> bytes:
        first = address & -_WORD
        data = b"".join(self._read(a, _WORD) for a in range(first, address + size, _WORD))
        for at in range(0, len(data), _WORD):
            self._note(first + at, int.from_bytes(data[at : at + _WORD], "little"))
        return data[address - first :][:size]

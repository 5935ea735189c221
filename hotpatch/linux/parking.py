# SPDX-License-Identifier: GPL-2.0-or-later
"""Sending stopped threads where they wait, should we die while one of them works for us.

As long as we live no thread gets there: all stay stopped, and have their own registers again
before they are let go. If we die, the kernel lets them go on with the registers that they have: at
trampolines/x86_64/parking.S, which waits for the word that the work begins and ends with. What it
needs to bring its thread home lies on the thread's own stack, below the red zone, as a signal frame
would. It is smaller, as nothing of the vector state is changed here.
"""

from __future__ import annotations

from collections.abc import Iterable

from hotpatch.arch import parkslot
from hotpatch.arch import registers as arch
from hotpatch.arch.registers import SIZE, Registers
from hotpatch.arch.syscalls import PTRACE
from hotpatch.errors import Gone
from hotpatch.linux import ptrace
from hotpatch.linux.memory import Buffer, Memory
from hotpatch.linux.threads import Thread
from hotpatch.linux.vectored import Calls

_RSEQ_CONFIGURATION = 24
_MASK_SIZE = 8


class Unparkable(Exception):
    """A thread is where it can't be sent elsewhere from; nothing was changed."""


class Parking:
    """Stopped threads that were sent to the parking code; `leave` gives them back."""

    def __init__(self, threads: Iterable[Thread], memory: Memory, code: int) -> None:
        """Read what they are to come home with; nothing is changed yet."""
        self._threads = list(threads)
        self._memory = memory
        count = len(self._threads)
        self._own = Buffer(count * SIZE)
        self._away = Buffer(count * SIZE)
        self._masks = Buffer((count + 1) * _MASK_SIZE)
        self._masks.words[count] = arch.NO_SYSCALL  # all signals
        self._code = code

    def enter(self) -> None:
        """Send them; raises Unparkable, and Gone."""
        slots = self._prepare()
        try:
            for address, content in slots:
                self._memory.write(address, content)
        except OSError as error:
            if isinstance(error, Gone):
                raise
            raise Unparkable(str(error)) from None
        everything = self._masks.address + len(self._threads) * _MASK_SIZE
        # Registers first, mask second: with the mask alone changed, death here would leave it so.
        self._make(
            row
            for number, thread in enumerate(self._threads)
            for row in (
                (PTRACE, ptrace.SETREGS, thread.tid, 0, self._away.address + number * SIZE),
                (PTRACE, ptrace.SETSIGMASK, thread.tid, _MASK_SIZE, everything),
            )
        )

    def leave(self) -> None:
        """Give them their own state back: mask before registers, for the same reason."""
        self._make(
            row
            for number, thread in enumerate(self._threads)
            for row in (
                (
                    *(PTRACE, ptrace.SETSIGMASK, thread.tid, _MASK_SIZE),
                    self._masks.address + number * _MASK_SIZE,
                ),
                (PTRACE, ptrace.SETREGS, thread.tid, 0, self._own.address + number * SIZE),
            )
        )

    def _make(self, rows: Iterable[tuple[int, ...]]) -> None:
        if any(result < 0 for result in Calls(rows).make()):
            raise Gone("the process ended while its threads were held")

    def _prepare(self) -> list[tuple[int, bytes]]:
        """Read their state; return what has to lie on their stacks, by address."""
        self._make(
            row
            for number, thread in enumerate(self._threads)
            for row in (
                (PTRACE, ptrace.GETREGS, thread.tid, 0, self._own.address + number * SIZE),
                (
                    *(PTRACE, ptrace.GETSIGMASK, thread.tid, _MASK_SIZE),
                    self._masks.address + number * _MASK_SIZE,
                ),
            )
        )
        sections = self._sections()
        slots = []
        for number, thread in enumerate(self._threads):
            own = Registers.from_buffer_copy(self._own.data, self._own.start + number * SIZE)
            if own.cs & 0xFFFF != arch.USER_CODE_SEGMENT:
                raise Unparkable(f"thread {thread.tid} is in 32-bit code")
            mask = self._masks.words[number]
            slot = parkslot.build(own, mask, sections.get(number, b""), self._code)
            self._away.put(number * SIZE, bytes(slot.away))
            slots.append((slot.address, slot.content))
        return slots

    def _sections(self) -> dict[int, bytes]:
        """Return the struct rseq_cs of those that may be inside a restartable sequence."""
        count = len(self._threads)
        configurations = Buffer(count * _RSEQ_CONFIGURATION)
        words = configurations.words
        Calls(
            (
                *(PTRACE, ptrace.GET_RSEQ_CONFIGURATION, thread.tid, _RSEQ_CONFIGURATION),
                configurations.address + number * _RSEQ_CONFIGURATION,
            )
            for number, thread in enumerate(self._threads)
        ).make()
        areas = {number: words[3 * number] for number in range(count) if words[3 * number]}
        pointers = Buffer(8 * len(areas))
        self._memory.read_many([(area + 8, 8) for area in areas.values()], pointers)
        return {
            number: self._memory.read(pointer, parkslot.RSEQ_CS_SIZE)
            for number, pointer in zip(areas, pointers.words, strict=False)
            if pointer
        }

# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies on the stack of a coroutine, of which a saved stack pointer is known.

A suspended coroutine's stack pointer S is saved in one of two ways, and each leaves a mark by
which S is told from the many other words that point to stacks.

- Plain, by a switching function (swapcontext, or one written by hand). The return address of the
  call of that function lies right below S, where it was popped before rsp was saved, or a few words
  above it, below which registers were pushed. The call leads to code that loads rsp; or it goes
  through a register, so that nobody can tell; S counts then unless it was found on the very stack
  that it points to, where the addresses of locals are.
- By glibc's setjmp, which mangles it. It is found by that, with the mangled program counter in the
  next word: the return address of the call of setjmp.

From there the stack is unwound like any other. Of the registers only rbp matters, by which frames
may be found before it is restored: it was pushed, or lies where jmp_buf and ucontext_t have it.

The stack ends where the call frame information says so, or where the next return address is none:
no call stands before what makecontext and its like put under the first function. Where it can't be
unwound further, although there is such a call, it is `open`: words above count as return addresses.

A context outlives its coroutine. One that returned from its first function into glibc's
__start_context shows that: behind its first function there is the return address of the call of
setcontext that has left the stack for good. The same is seen of one that called setcontext or
longjmp further out than the frames in question.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hotpatch.arch import frames as arch
from hotpatch.arch import switching
from hotpatch.errors import Gone
from hotpatch.linux.procfs import Mapping
from hotpatch.process.image import Process
from hotpatch.quiescence.rules import Read, Values
from hotpatch.quiescence.switch_calls import Calls
from hotpatch.quiescence.unwind import Frame, Unwinder

_NEAR = 4096  # below a stack pointer: what calls have left there
_LARGEST_FRAME = 1 << 20
_BEYOND = 8  # of a place where a pointer was found: what else is saved there


class Saved(NamedTuple):
    """What may be a saved stack pointer: its value, and where it was found, 0 for a register.

    `pc` is the program counter that was saved with it, where that is known, and `rbp` as well.
    """

    pointer: int
    at: tuple[int, ...]
    pc: int = 0
    rbp: int | None = None


class Chain(NamedTuple):
    """The frames of a suspended stack, innermost first, and the address above the last of them.

    `open`: there may be more.
    """

    frames: tuple[Frame, ...]
    top: int
    open: bool


class Stacks:
    """Unwinds stacks from saved stack pointers; what it learns of the code is kept."""

    def __init__(self, process: Process) -> None:
        """Look at the code of `process`; raises Gone."""
        self._process = process
        self.unwinder = Unwinder(process)
        self.calls = Calls(process)
        self._read: Read = process.read

    def follow(self, mappings: Sequence[Mapping]) -> None:
        """Take a newer memory map; made for the time before a stop."""
        self.unwinder.follow(mappings)
        self.calls.follow(mappings)

    def copy(self, saved: Saved, top: int) -> bytes:
        """Return what is on a stack from right below its pointer, b"" where it is not there."""
        try:
            return self._process.read(saved.pointer - 8, top - saved.pointer + 8)
        except Gone:
            raise
        except OSError:
            return b""

    def chains(self, saved: Saved, end: int, copy: bytes = b"") -> list[Chain]:
        """Return the frames of the stack that ends below `end`, [] for what is no such stack.

        Where there is doubt about the innermost frame, there is a chain for each that it may be.
        With a `copy`, only that is looked at of the stack.
        """
        self._read = _reader(saved.pointer - 8, copy) if copy else self._process.read
        found = []
        for pc, rsp, unsure in self._starts(saved, end):
            chain = self._unwound(saved, pc, rsp, end)
            on_itself = all(saved.pointer - _NEAR <= at < chain.top for at in saved.at)
            if not (unsure and on_itself) and not self._is_left(chain):
                found.append(chain)
        return found

    def _starts(self, saved: Saved, end: int) -> list[tuple[int, int, bool]]:
        """Return (program counter, rsp, whether to be doubted) where the stack may begin."""
        if saved.pc:
            return [(saved.pc, saved.pointer, False)]
        first = saved.pointer - 8
        count = min(switching.LONGEST_SAVE + 1, (end - first) // 8)
        try:
            words = struct.unpack(f"<{count}Q", self._read(first, 8 * count))
        except Gone:
            raise
        except OSError:
            return []
        found = []
        for number, word in enumerate(words):
            call = self.calls.before(word)
            if call is None or not call.may_switch:
                continue
            if not number or not self._is_in_context(word, words[number - 1]):
                found.append((word, first + 8 * number + 8, not call.switches))
        return found

    def _is_in_context(self, word: int, before: int) -> bool:
        """Say whether a return address is one that was saved with a stack pointer, before it.

        Then it lies in an object to which there are pointers, not on a stack. That other stack has,
        where its pointer says, the same return address, or that of a later call.
        """
        for top in self.calls.words(before - 8, 1) if before > 8 else ():
            call = self.calls.before(top)
            return top == word or (call is not None and call.may_switch)
        return False

    def _unwound(self, saved: Saved, pc: int, rsp: int, end: int) -> Chain:
        chain = self._walked(pc, rsp, saved.rbp, end)
        if chain.open and saved.rbp is None:
            rbp = self._rbp(saved, rsp)
            chain = self._walked(pc, rsp, rbp, end) if rbp is not None else chain
        return chain

    def _walked(self, pc: int, rsp: int, rbp: int | None, end: int) -> Chain:
        values: Values = [None] * len(arch.DWARF_REGISTERS)
        values[arch.RSP], values[arch.RETURN_ADDRESS], values[arch.RBP] = rsp, pc, rbp
        stack = self.unwinder.unwind_from(values, self._read, True)
        frames: list[Frame] = []
        top = rsp
        for frame in stack.frames:
            if not frame.cfa:  # nothing is known of it
                known = not frame.call or self.calls.before(frame.pc) is not None
                return Chain((*frames, frame) if known else tuple(frames), top, known)
            if not top <= frame.cfa <= end:  # it goes on on another stack: behind a signal
                break
            frames.append(frame)
            top = frame.cfa
        return Chain(tuple(frames), top, False)

    def _rbp(self, saved: Saved, rsp: int) -> int | None:
        """Return what rbp may have held: a pointer to a frame further out, of those nearby."""
        read = self.calls.words
        places = [at for at in saved.at if at > 8 * _BEYOND]
        words = [
            *(word for at in places for word in read(at + switching.JMPBUF_RBP, 1)),
            *read(saved.pointer, (rsp - 8 - saved.pointer) // 8),
            *(word for at in places for word in read(at - 8 * _BEYOND, 2 * _BEYOND)),
        ]
        near = [w for w in words if rsp <= w < rsp + _LARGEST_FRAME and not w % 8]
        framed = (w for w in near if any(map(self.calls.before, read(w + 8, 1))))
        return next(framed, near[0] if near else None)

    def _is_left(self, chain: Chain) -> bool:
        """Say whether a frame other than the innermost has called what has left the stack."""
        return any(
            inner.call and frame.call and self.calls.leaves(frame.pc)
            for inner, frame in pairwise(chain.frames)
        )


def _reader(start: int, copy: bytes) -> Read:
    def read(address: int, size: int) -> bytes:
        at = address - start
        if at < 0 or at + size > len(copy):
            raise OSError(14, f"{size} bytes at {address:#x} are not all in the copy")
        return copy[at : at + size]

    return read

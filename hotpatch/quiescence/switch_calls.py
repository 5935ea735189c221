# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls before return addresses, and whether they lead to another stack.

A function that switches stacks is known by its code: it loads rsp, or jumps to one that does
(`arch.switching`). Calls of it are followed through the PLT, but not into gates: what a function
does is told by its own code. Where a call goes by a register, nobody can tell.
"""

from __future__ import annotations

import contextlib
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hotpatch.arch import frames as arch
from hotpatch.arch import switching
from hotpatch.elf.file import ElfError
from hotpatch.errors import Gone
from hotpatch.linux.memory import Buffer
from hotpatch.linux.procfs import Mapping
from hotpatch.process.image import Process
from hotpatch.quiescence.ranges import Ranges
from hotpatch.quiescence.references import pointers
from hotpatch.quiescence.switching import C_LIBRARY

_LEAVE = ("setcontext", "swapcontext", "longjmp", "_longjmp", "siglongjmp", "__longjmp_chk")
_CODE = 512  # of a function, in which it loads rsp if it does
_FRONT = 64  # of a function, in which it jumps to the one that does
_HOPS = 4
_USER_SPACE = 1 << 47


class Call(NamedTuple):
    """What the call before a return address leads to, 0 if unknown; whether that loads rsp."""

    target: int
    switches: bool

    @property
    def may_switch(self) -> bool:
        """Whether it may lead to another stack."""
        return self.switches or not self.target


class Switches:
    """Finds return addresses of calls that may lead to another stack."""

    def __init__(self, code: Ranges, may_switch: Callable[[int], bool]) -> None:
        """Look at pointers to `code`; `may_switch` judges one that was not seen before."""
        self.lane = code.lane
        self._code = code
        self._may_switch = may_switch
        self._known: dict[int, bool] = {}

    def search_buffer(self, buffer: Buffer, size: int) -> list[tuple[int, int]]:
        """Return (offset, word) of each in the first `size` bytes."""
        words, known, judge = buffer.words, self._known, self._judge
        places = ((offset, words[offset >> 3]) for offset in self._code.places(buffer, size))
        return [p for p in places if (known[p[1]] if p[1] in known else judge(p[1]))]

    def _judge(self, word: int) -> bool:
        self._known[word] = may_switch = self._may_switch(word)
        return may_switch


class Calls:
    """The calls in the code of a process; what was found out is kept.

    `switches` finds return addresses of those that may lead to another stack.
    """

    def __init__(self, process: Process) -> None:
        """Prepare; `follow` is to be called first."""
        self._process = process
        self._known: dict[int, Call | None] = {}
        self._mapped: list[tuple[int, int]] = []
        self._leave: set[int] = set()
        self._gates: set[int] = set()
        self.switches = Switches(pointers(()), self._may_switch)

    def follow(self, mappings: Sequence[Mapping]) -> None:
        """Take a newer memory map; made for the time before a stop."""
        executable = (m for m in mappings if "x" in m.protection)
        code = [(m.start, m.end) for m in executable if m.start < _USER_SPACE]
        if code != self._mapped:
            self._mapped = code
            self._known = {}
            self._leave = set(_addresses(self._process))
            patches = self._process.patches
            self._gates = {f.gate[0] for patch in patches for f in patch.record.functions}
            self.switches = Switches(pointers(code, few=True), self._may_switch)

    def before(self, word: int) -> Call | None:
        """Return the call that returns to an address; None for what is no such address."""
        if word not in self._known:
            self._known[word] = self._look_at_call(word) if self._is_code(word) else None
        return self._known[word]

    def leaves(self, word: int) -> bool:
        """Say whether an address is where one of the C library returns that leaves its stack.

        None of these calls anything of the program.
        """
        call = self.before(word)
        return call is not None and call.target in self._leave

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return words of memory, none where they are not all there."""
        data = self._read(address, 8 * count) if count > 0 else b""
        return struct.unpack(f"<{len(data) // 8}Q", data)

    def _may_switch(self, word: int) -> bool:
        call = self.before(word)
        return call is not None and call.may_switch

    def _is_code(self, address: int) -> bool:
        at = bisect_right(self._mapped, (address, 1 << 64)) - 1
        return at >= 0 and address <= self._mapped[at][1]

    def _look_at_call(self, word: int) -> Call | None:
        before = self._read(word - arch.LONGEST_CALL, arch.LONGEST_CALL)
        if not arch.ends_with_call(before):
            return None
        target = self._followed(switching.called_before(before, word))
        return Call(target, self._switches(target)) if target else Call(0, False)

    def _followed(self, lead: tuple[int, bool] | None) -> int:
        """Return the function that a call leads to, by way of the PLT; 0 if that is unknown."""
        target = 0
        for _ in range(_HOPS):
            if lead is None:
                return target
            entry = target
            target, by_word = lead
            if by_word:
                words = self.words(target, 1)
                target = words[0] if words else 0
            if target in self._gates:
                return entry
            if not self._is_code(target):
                return 0
            lead = switching.jumps_at_once(self._read(target, _FRONT), target)
        return target

    def _switches(self, target: int) -> bool:
        """Say whether a function loads rsp, or jumps to one that does."""
        code = self._read(target, self._size(target))
        if target in self._leave or switching.loads_stack_pointer(code):
            return True
        for at in range(len(code[:_FRONT])):
            lead = switching.jumps_at_once(code[at : at + _FRONT], target + at)
            further = self._followed(lead) if lead else 0
            if further and switching.loads_stack_pointer(self._read(further, self._size(further))):
                return True
        return False

    def _size(self, address: int) -> int:
        """Return how much code of the function at an address is to be looked at."""
        module = self._process.module_at(address)
        if module is None:
            return _CODE
        with contextlib.suppress(ElfError):
            symbol = module.elf.symbols.at(address - module.bias)
            if symbol is not None and symbol.size:
                return min(symbol.value + symbol.size + module.bias - address, _CODE)
        return _CODE

    def _read(self, address: int, size: int) -> bytes:
        """Return memory, b"" where there is none."""
        try:
            return self._process.read(address, size)
        except Gone:
            raise
        except OSError:
            return b""


def _addresses(process: Process) -> list[int]:
    """Return the functions of the C library that go to another stack and don't come back."""
    found = []
    for module in process.modules:
        if module.program or C_LIBRARY.fullmatch(module.name):
            with contextlib.suppress(ElfError):
                table = module.elf.symbols if module.program else module.elf.dynamic_symbols
                symbols = [s for name in _LEAVE for s in table.by_name(name) if s.section]
                found += [module.bias + symbol.value for symbol in symbols]
    return found

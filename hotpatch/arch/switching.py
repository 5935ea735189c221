# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that goes from one stack to another, as it looks on x86-64.

What a compiler makes of a function moves rsp by constants, or takes it back from rbp (or, in one
with arrays of variable length, from a register in which it was kept). So an instruction that loads
rsp from memory other than the function's own frame is written by hand, to change stacks; one that
loads it from a register may be. Encodings: Intel SDM, volume 2, MOV and XCHG, tables 2-2 and 2-3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

# Opcodes without their REX prefix: a pattern that begins with one byte is searched for quickest.
_FROM_MEMORY = re.compile(rb"\x8b[\x20-\x27\x60-\x67\xa0-\xa7].", re.DOTALL)
_FROM_REGISTER = re.compile(rb"\x89[\xc4\xcc\xd4\xdc\xe4\xec\xf4\xfc]")
_EXCHANGE = re.compile(rb"\x87[\xc4\xcc\xd4\xdc\xec\xf4\xfc\xe0-\xe7\x20-\x23\x26\x27\x60-\x67]")
_OWN_FRAME = re.compile(rb"[\x65\xa5]|[\x24\x64\xa4]\x24", re.DOTALL)  # at rbp, at rsp
_RBP_OR_RSP = frozenset(b"\xe4\xec")
JMPBUF_RBP = -40  # from the word that holds rsp to that with rbp: in jmp_buf and in ucontext_t
GUARD = 0x30  # where glibc keeps its pointer guard, from the thread pointer (tcbhead_t)
LONGEST_SAVE = 32  # words that a switching function may push below its return address

_MASK = (1 << 64) - 1
_INT = Struct("<i")
_LONGEST_JUMP = 16
_JUMP_BY_WORD = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\xf2?\xff\x25(....)", re.DOTALL)
_JUMP = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?\xf2?\xe9(....)", re.DOTALL)


def mangle(pointer: int, guard: int) -> int:
    """Return a pointer as glibc's setjmp keeps it (PTR_MANGLE)."""
    value = pointer ^ guard
    return (value << 17 | value >> 47) & _MASK


def demangle(word: int, guard: int) -> int:
    """Return the pointer that glibc keeps as `word`."""
    return ((word >> 17 | word << 47) & _MASK) ^ guard


def stack_pointer_loads(code: bytes) -> Iterator[int]:
    """Yield the offsets of what look like instructions that load rsp, but for those from rbp.

    Takes about 4 ms a MB.
    """
    for pattern, is_load in (
        (_FROM_MEMORY, _is_from_memory),
        (_FROM_REGISTER, _is_from_register),
        (_EXCHANGE, _is_exchange),
    ):
        for match in pattern.finditer(code, 1):
            at = match.start() - 1
            if code[at] & 0xF8 == 0x48 and is_load(code[at], code[at + 2 : at + 4]):
                yield at


def _is_from_memory(rex: int, rest: bytes) -> bool:
    return not rex & 4 and (rex & 1 != 0 or _OWN_FRAME.match(rest) is None)


def _is_from_register(rex: int, rest: bytes) -> bool:
    return not rex & 1 and (rex & 4 != 0 or rest[0] not in _RBP_OR_RSP)


def _is_exchange(rex: int, rest: bytes) -> bool:
    return not rex & (1 if rest[0] & 0xC7 == 0xC4 else 4)


def restores_stack_pointer(code: bytes, load: bytes) -> bool:
    """Say whether `load` takes rsp back from a register in which `code` has kept it.

    So do compilers, in functions whose frames have no fixed size.
    """
    if load[1:2] != b"\x89":
        return False
    number = load[2] >> 3 & 7 | (load[0] & 4) << 1
    return bytes((0x48 | number >> 3, 0x89, 0xE0 | number & 7)) in code


def loads_stack_pointer(code: bytes) -> bool:
    """Say whether code may go to another stack."""
    return any(
        not restores_stack_pointer(code, code[at : at + 3]) for at in stack_pointer_loads(code)
    )


def called_before(code: bytes, address: int) -> tuple[int, bool] | None:
    """Return what the call at the end of `code`, whose end is `address`, leads to.

    That is (address, False), or (address of the word that holds it, True); None where it can't be
    told from the code.
    """
    if code[-5:-4] == b"\xe8":
        return (address + _displacement(code[-4:])) & _MASK, False
    if code[-6:-4] == b"\xff\x15":
        return (address + _displacement(code[-4:])) & _MASK, True
    return None


def jumps_at_once(code: bytes, address: int) -> tuple[int, bool] | None:
    """Return what code at `address` jumps to with its first instruction, as `called_before`."""
    for pattern, by_word in ((_JUMP_BY_WORD, True), (_JUMP, False)):
        match = pattern.match(code[:_LONGEST_JUMP])
        if match:
            return (address + match.end() + _displacement(match[1])) & _MASK, by_word
    return None


def _displacement(four: bytes) -> int:
    value: int = _INT.unpack(four)[0]
    return value

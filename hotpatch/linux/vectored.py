# SPDX-License-Identifier: GPL-2.0-or-later
"""Many system calls of our own at once: what a stop consists of, for a thousand threads.

The list is made before the target is stopped. Between two calls of it there are then a dozen
instructions, where a loop in Python takes a microsecond: a fifth of what the kernel needs for a
request. It is `arch.vectored` that makes them; where the system doesn't let us have memory with
code in it (SELinux execmem, systemd MemoryDenyWriteExecute), the C library's syscall(2) does.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Iterable
from functools import cache

from hotpatch.arch.vectored import CODE, WORDS

_PAGE = 4096
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANONYMOUS = 0x22
_FAILED = (1 << 64) - 1
_MASK = (1 << 64) - 1


class Calls:
    """A list of system calls, to be made again and again."""

    def __init__(self, rows: Iterable[tuple[int, ...]]) -> None:
        """Take the number and up to six arguments of each call, none of them negative."""
        words = array("Q")
        for row in rows:
            words.extend(row)
            words.extend((0,) * (WORDS - len(row)))
        self._words = words
        self._results = memoryview(words).cast("B").cast("q")[WORDS - 1 :: WORDS]
        self._address = words.buffer_info()[0]
        self._make = _maker()

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self._words) // WORDS

    def make(self, first: int = 0, last: int | None = None) -> list[int]:
        """Make the calls from `first` up to `last`; return results, negative numbers for errors."""
        end = len(self) if last is None else min(last, len(self))
        size = 8 * WORDS
        self._make(self._address + first * size, self._address + end * size)
        results: list[int] = self._results[first:end].tolist()
        return results


@cache
def _maker() -> Callable[[int, int], object]:
    """Return what makes the calls between two addresses."""
    address = _code()
    if address is None:
        return _make_one_by_one
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)


def _code() -> int | None:
    """Return the address of the machine code, None where there can't be any."""
    libc = ctypes.CDLL(None)
    for name in ("mmap", "mprotect"):
        getattr(libc, name).restype = ctypes.c_size_t
    address: int = libc.mmap(
        None,
        ctypes.c_size_t(_PAGE),
        _PROT_READ | _PROT_WRITE,
        _MAP_PRIVATE_ANONYMOUS,
        -1,
        ctypes.c_long(0),
    )
    if address == _FAILED:
        return None
    ctypes.memmove(address, CODE, len(CODE))
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), _PROT_READ | _PROT_EXEC):
        return None
    return address


def _make_one_by_one(first: int, end: int) -> None:
    """Do the same without machine code."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    call = ctypes.c_uint64 * WORDS
    for address in range(first, end, ctypes.sizeof(call)):
        words = call.from_address(address)
        result = syscall(*(ctypes.c_uint64(word) for word in words[: WORDS - 1]))
        words[WORDS - 1] = (-ctypes.get_errno() if result == -1 else result) & _MASK

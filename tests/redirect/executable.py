# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of the test process in which machine code is put and called."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable

from hotpatch.arch.assembler import assemble
from hotpatch.redirect.entry import Write
from hotpatch.redirect.gate import Door

MAP_FIXED_NOREPLACE = 0x100000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

RWX = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


class Arena:
    """A mapping at `address` that can be read, written and run."""

    def __init__(self, address: int, size: int = 1 << 20) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        if _libc.mmap(address, size, RWX, flags, -1, 0) != address:
            raise OSError(ctypes.get_errno(), f"cannot map {address:#x}")
        self.address = address
        self.size = size

    @property
    def door(self) -> Door:
        """The door of any gate in here, at its end."""
        return Door(self.address + self.size - 4, self.address + self.size - 24)

    def close(self) -> None:
        _libc.munmap(self.address, self.size)

    def put(self, address: int, text: str, **symbols: int) -> bytes:
        """Assemble `text` at `address`; return its bytes."""
        code = assemble(text, address, **symbols).code
        poke(address, code)
        return code


def peek(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


def poke(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def perform(writes: Iterable[Write]) -> None:
    for write in writes:
        poke(*write)


def make_writable(start: int, end: int) -> None:
    """Let the code in a range of pages be written."""
    start &= -mmap.PAGESIZE
    if _libc.mprotect(start, end - start, RWX):
        raise OSError(ctypes.get_errno(), "mprotect")


def call(address: int, *arguments: int) -> int:
    """Call a function of up to six integers that returns an int64."""
    function = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(arguments))(address)
    return int(function(*arguments))


def futex_wake(address: int) -> None:
    """Wake all who wait at a word of this process (FUTEX_WAKE | FUTEX_PRIVATE_FLAG)."""
    _libc.syscall(202, ctypes.c_void_p(address), 129, 1 << 30)


def word(address: int) -> ctypes.c_int32:
    """Return the 32-bit word at an address, whose `value` can be set."""
    return ctypes.c_int32.from_address(address)

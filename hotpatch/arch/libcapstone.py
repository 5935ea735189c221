# SPDX-License-Identifier: GPL-2.0-or-later
"""The library of capstone by its C interface: opening it, decoding, and nothing else.

`import capstone` takes 40 ms, a third of a whole `hotpatch apply`: for the tables of a dozen other
machines, and for parts of the standard library by which it looks for its library. Loading that
library takes 2. What is used of it are three functions of capstone.h, whose structures are those of
version 5; of another version, or not found where the package has it, the package is used.
"""

from __future__ import annotations

import ctypes
import os

from hotpatch.arch.library import load

_MAJOR = 5
_ARCH_X86, _MODE_64, _DIET = 3, 1 << 3, 0x10000


class _Instruction(ctypes.Structure):
    """`cs_insn`."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint16),
        ("bytes", ctypes.c_uint8 * 24),
        ("mnemonic", ctypes.c_char * 32),
        ("op_str", ctypes.c_char * 160),
        ("detail", ctypes.c_void_p),
    )


class Engine:
    """Decodes 64-bit x86 code; the part of `capstone.Cs` that `disassembler.decode` uses."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Open the library; raises OSError where it has no x86."""
        self._handle = ctypes.c_size_t()
        error = library.cs_open(_ARCH_X86, _MODE_64, ctypes.byref(self._handle))
        if error:
            raise OSError(f"cs_open: error {error}")
        self._disasm = library.cs_disasm
        self._disasm.restype = ctypes.c_size_t
        self._free = library.cs_free
        self._free.restype = None

    def disasm_lite(
        self, code: bytes, address: int, count: int = 0
    ) -> list[tuple[int, int, str, str]]:
        """Return address, size, mnemonic and operands of each instruction; `count` 0 is all."""
        found = ctypes.POINTER(_Instruction)()
        number = self._disasm(
            self._handle,
            bytes(code),
            ctypes.c_size_t(len(code)),
            ctypes.c_uint64(address),
            ctypes.c_size_t(count),
            ctypes.byref(found),
        )
        try:
            return [
                (it.address, it.size, it.mnemonic.decode(), it.op_str.decode())
                for it in found[:number]
            ]
        finally:
            if number:
                self._free(found, ctypes.c_size_t(number))


def open_engine() -> Engine | None:
    """Return a decoder, None where only the package `capstone` can find or use its library."""
    if "LIBCAPSTONE_PATH" in os.environ:
        return None
    library = load("capstone", "lib/libcapstone.so", os.RTLD_NOW | os.RTLD_DEEPBIND)
    try:
        if library is not None and _is_usable(library):
            return Engine(library)
    except (OSError, AttributeError):
        pass
    return None


def _is_usable(library: ctypes.CDLL) -> bool:
    return bool(library.cs_version(None, None) >> 8 == _MAJOR and not library.cs_support(_DIET))

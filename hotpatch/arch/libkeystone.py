# SPDX-License-Identifier: GPL-2.0-or-later
"""The library of keystone by its C interface: opening it, assembling, and nothing else.

`import keystone` takes 30 ms, as it imports `inspect` and `platform` to look for its library, which
is loaded in 3. The functions of keystone.h that are used are those of version 0.9; of another
version, or not found where the package has it, the package is used.
"""

from __future__ import annotations

import ctypes

from hotpatch.arch.library import load

_VERSION = 0 << 8 | 9
_ARCH_X86, _MODE_64 = 4, 1 << 3


class Engine:
    """Assembles 64-bit x86 code in Intel syntax."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Open the library; raises OSError where it has no x86."""
        self._handle = ctypes.c_void_p()
        error = library.ks_open(_ARCH_X86, _MODE_64, ctypes.byref(self._handle))
        if error:
            raise OSError(f"ks_open: error {error}")
        self._asm = library.ks_asm
        self._errno = library.ks_errno
        self._message = library.ks_strerror
        self._message.restype = ctypes.c_char_p
        self._free = library.ks_free
        self._free.restype = None

    def assemble(self, text: str, address: int) -> bytes:
        """Return the machine code of `text`; raises ValueError."""
        code, size, statements = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
        failed = self._asm(
            self._handle,
            text.encode("ascii"),
            ctypes.c_uint64(address),
            ctypes.byref(code),
            ctypes.byref(size),
            ctypes.byref(statements),
        )
        if failed:
            raise ValueError(self._message(self._errno(self._handle)).decode())
        try:
            return ctypes.string_at(code, size.value)
        finally:
            self._free(code)


def open_engine() -> Engine | None:
    """Return an assembler, None where only the package `keystone` can find or use its library."""
    library = load("keystone", "libkeystone.so")
    try:
        if library is not None and library.ks_version(None, None) == _VERSION:
            return Engine(library)
    except (OSError, AttributeError):
        pass
    return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and writing the target's memory.

Reads go through process_vm_readv(2), which takes up to 1,024 pieces in a call. Writes go
through /proc/PID/mem, which reaches read-only text too (FOLL_FORCE gives the target a copy of its
own of the page) and copies a piece within one page in one step that SIGKILL can't split.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Sequence

from hotpatch.errors import Gone

_libc = ctypes.CDLL(None, use_errno=True)
_readv = _libc.process_vm_readv
_readv.argtypes = (
    ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong,
)  # fmt: skip
_readv.restype = ctypes.c_ssize_t
_IOV_MAX = 1024
_ESRCH = 3


class Buffer:
    """Memory of ours that is filled and searched again and again: fresh pages cost more."""

    def __init__(self, size: int) -> None:
        """Make room for `size` bytes."""
        self.data = bytearray(max(8, -(-size // 8) * 8))
        self._pinned = (ctypes.c_char * len(self.data)).from_buffer(self.data)
        self.address = ctypes.addressof(self._pinned)


class Memory:
    """The address space of a process; closed with the context or `close`."""

    def __init__(self, pid: int) -> None:
        """Open it; raises the OSError of open(2) on /proc/PID/mem."""
        self.pid = pid
        self._fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the address space."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes; raises OSError where they are not all mapped, Gone at its end."""
        buffer = ctypes.create_string_buffer(size)
        if size and self._readv(((address, size),), ctypes.addressof(buffer), size) != size:
            raise OSError(14, f"{size} bytes at {address:#x} can't be read in process {self.pid}")
        return buffer.raw

    def read_many(self, pieces: Sequence[tuple[int, int]], into: Buffer) -> int:
        """Read (address, size) pieces one behind the other; return how many bytes came.

        It stops short at the first piece that is not wholly mapped. `into` must have the room.
        """
        start = into.address
        done = 0
        for first in range(0, len(pieces), _IOV_MAX):
            part = pieces[first : first + _IOV_MAX]
            wanted = sum(size for _, size in part)
            got = self._readv(part, start + done, wanted)
            done += got
            if got != wanted:
                break
        return done

    def _readv(self, pieces: Sequence[tuple[int, int]], into: int, size: int) -> int:
        remote = array("Q", [word for piece in pieces for word in piece])
        local = array("Q", (into, size))
        got: int = _readv(
            self.pid, local.buffer_info()[0], 1, remote.buffer_info()[0], len(pieces), 0
        )
        if got >= 0:
            return got
        if ctypes.get_errno() == _ESRCH:
            raise Gone(f"process {self.pid} ended")
        return 0

    def write(self, address: int, data: bytes) -> None:
        """Write bytes, also where the target may not; raises Gone when it ended or called exec."""
        try:
            written = os.pwrite(self._fd, data, address)
        except OSError as error:
            raise OSError(
                error.errno, f"{len(data)} bytes at {address:#x} can't be written: {error.strerror}"
            ) from error
        if not written:  # the address space that was opened has no user any more
            raise Gone(f"process {self.pid} ended or called exec")
        if written < len(data):
            self.write(address + written, data[written:])

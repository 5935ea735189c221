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
from hotpatch.linux import procfs

_libc = ctypes.CDLL(None, use_errno=True)
_readv = _libc.process_vm_readv
_readv.argtypes = (
    ctypes.c_long, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong,
)  # fmt: skip
_readv.restype = ctypes.c_ssize_t
_IOV_MAX = 1024
_PAGE = 4096
_ESRCH = 3


class Buffer:
    """Memory of ours that is filled and searched again and again: fresh pages cost more.

    Its content begins at `address`, which is `data[start]`, and lies so that in each of its 8-byte
    words the four bytes from number `lane` on are an aligned 32-bit word: what vector instructions
    compare. `words` is the content as 64-bit words.
    """

    def __init__(self, size: int, lane: int = 0) -> None:
        """Make room for `size` bytes."""
        self.size = -(-size // 8) * 8
        self.lane = lane
        self.data = bytearray(self.size + 16)
        self._pinned = (ctypes.c_char * len(self.data)).from_buffer(self.data)
        base = ctypes.addressof(self._pinned)
        self.start = (-lane - base) % 8
        self.address = base + self.start
        self.words = memoryview(self.data)[self.start : self.start + self.size].cast("Q")

    def content(self, offset: int, size: int) -> bytearray:
        """Return a part of the content."""
        return self.data[self.start + offset : self.start + offset + size]

    def put(self, offset: int, content: bytes | bytearray | memoryview) -> None:
        """Overwrite a part of the content."""
        at = self.start + offset
        self.data[at : at + len(content)] = content


class Memory:
    """The address space of a process; closed with the context or `close`."""

    def __init__(self, pid: int) -> None:
        """Open it; raises the OSError of open(2) on /proc/PID/mem."""
        self.pid = pid
        self._anchor = procfs.anchor(pid)
        self._fd = os.open(f"/proc/{self._anchor}/mem", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the address space."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abandoned(self) -> bool:
        """Say whether nobody uses the address space any more: the process ended or called exec."""
        try:
            return not os.pread(self._fd, 1, 0)
        except OSError:  # address 0 is not mapped, as usual
            return False

    def read(self, address: int, size: int) -> bytes:
        """Return `size` bytes; raises OSError where they are not all mapped, Gone at its end."""
        buffer = ctypes.create_string_buffer(size)
        if size and self._readv(((address, size),), ctypes.addressof(buffer), size) != size:
            raise OSError(14, f"{size} bytes at {address:#x} can't be read in process {self.pid}")
        return buffer.raw

    def read_many(self, pieces: Sequence[tuple[int, int]], into: Buffer, offset: int = 0) -> int:
        """Read (address, size) pieces one behind the other; return how many bytes came.

        It stops short at the first piece that is not wholly mapped. `into` must have the room,
        from `offset` on.
        """
        start = into.address + offset
        done = 0
        for first in range(0, len(pieces), _IOV_MAX):
            part = pieces[first : first + _IOV_MAX]
            wanted = sum(size for _, size in part)
            got = self._readv(part, start + done, wanted)
            done += got
            if got != wanted:
                break
        return done

    def copy(self, pieces: Sequence[tuple[int, int]], into: Buffer) -> None:
        """Read (address, size) pieces, whole pages, one behind the other into a buffer.

        What the target has mapped but may not read (PROT_NONE) is read, too; for what can't be,
        there are zeros. Raises Gone.
        """
        if self.read_many(pieces, into) == sum(size for _, size in pieces):
            return
        at = 0
        for address, size in pieces:
            if self._readv(((address, size),), into.address + at, size) != size:
                pages = range(address, address + size, _PAGE)
                into.put(at, b"".join(self._page(page) for page in pages))
            at += size

    def _page(self, address: int) -> bytes:
        try:
            return os.pread(self._fd, _PAGE, address).ljust(_PAGE, b"\0")
        except OSError:
            return bytes(_PAGE)

    def _readv(self, pieces: Sequence[tuple[int, int]], into: int, size: int) -> int:
        remote = array("Q", [word for piece in pieces for word in piece])
        local = array("Q", (into, size))
        got: int = _readv(
            self._anchor, local.buffer_info()[0], 1, remote.buffer_info()[0], len(pieces), 0
        )
        if got >= 0:
            return got
        if ctypes.get_errno() == _ESRCH:
            anchor = procfs.anchor(self.pid)
            if anchor != self._anchor:  # the thread that stood for the process has ended
                self._anchor = anchor
                return self._readv(pieces, into, size)
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

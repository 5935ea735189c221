# SPDX-License-Identifier: GPL-2.0-or-later
"""Recognising, by its bytes, code that the tool chain and the C library put into every program.

Stripped files name nothing, while this code is the same for many years. What is not
recognised is taken for the program's own, which is always right, though slower.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LONGEST = 64
"""Bytes of code that are enough for every look here."""

_ENDBR = rb"(?:\xf3\x0f\x1e\xfa)?"

# crti.o and crtn.o of glibc: `sub rsp, 8`, a call of __gmon_start__ if there is one, `add rsp, 8;
# ret` (sysdeps/x86_64/crti.S); those of musl: `push rax; pop rax; ret`.
_INIT = re.compile(
    _ENDBR
    + rb"(?:\x48\x83\xec\x08(?:\x48\x8b\x05....\x48\x85\xc0\x74\x02\xff\xd0)?\x48\x83\xc4\x08\xc3"
    rb"|\x50\x58\xc3)",
    re.DOTALL,
)
# crtstuff.c of gcc: frame_dummy is a jump to register_tm_clones, ...
_FRAME_DUMMY = re.compile(_ENDBR + rb"(?:\x55\x48\x89\xe5\x5d)?(?:\xe9(....)|\xeb(.))", re.DOTALL)
# ... which does nothing where there is no library for transactional memory: the table is empty ...
_REGISTER = re.compile(
    rb"\x48\x8d\x3d....\x48\x8d\x35....\x48\x29\xfe\x48\x89\xf0\x48\xc1\xee\x3f\x48\xc1\xf8\x03"
    rb"\x48\x01\xc6\x48\xd1\xfe\x74",
    re.DOTALL,
)
# ... and __do_global_dtors_aux calls __cxa_finalize, and the opposite of the above.
_DTORS = re.compile(
    _ENDBR + rb"\x80\x3d....\x00\x75.\x55\x48\x83\x3d....\x00\x48\x89\xe5\x74.\x48\x8b\x3d....\xe8"
    rb"....\xe8....\xc6\x05....\x01\x5d\xc3",
    re.DOTALL,
)
# `mov rax, [rax + 8]; ret`: glibc's _dl_tlsdesc_return and musl's __tlsdesc_static.
_TLS_RESOLVER = re.compile(_ENDBR + rb"\x48\x8b\x40\x08\xc3")

Reader = Callable[[int], bytes]
"""Returns up to `LONGEST` bytes of code at an address."""


def does_nothing(code: Reader, address: int) -> bool:
    """Tell whether an initialiser or finaliser is one that the tool chain adds and does nothing."""
    if _INIT.match(code(address)):
        return True
    jump = _FRAME_DUMMY.match(code(address))
    if not jump:
        return False
    distance = int.from_bytes(jump[1] or jump[2], "little", signed=True)
    return _REGISTER.match(code(address + jump.end() + distance)) is not None


def only_finalizes(code: Reader, address: int) -> bool:
    """Tell whether a finaliser is gcc's own, which runs what was registered with __cxa_atexit."""
    return _DTORS.match(code(address)) is not None


def is_static_tls_resolver(code: bytes) -> bool:
    """Tell whether a TLS descriptor's function is the C library's for a fixed offset."""
    return _TLS_RESOLVER.match(code) is not None

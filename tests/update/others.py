# SPDX-License-Identifier: GPL-2.0-or-later
"""Other processes than targets: a tracer, somebody without permission, a 32-bit program."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hotpatch
from tests.support.programs import read_line

_TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
for tid in sys.argv[1:]:
    if libc.ptrace(0x4206, int(tid), None, None):  # PTRACE_SEIZE
        sys.exit("ptrace: errno %d" % ctypes.get_errno())
print("TRACING", flush=True)
sys.stdin.read()
"""
NOBODY = 65534


@contextmanager
def tracing(*tids: int) -> Iterator[int]:
    """Have threads traced by another process; gives its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", _TRACER, *map(str, tids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as tracer:
        try:
            assert read_line(tracer) == "TRACING\n"
            yield tracer.pid
        finally:
            tracer.kill()


def as_nobody(action: Callable[[], object]) -> dict[str, Any]:
    """Do something as a user without any privilege; return the error that comes of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: /proc/self is our own again
            action()
            fields: dict[str, Any] = {}
        except hotpatch.HotpatchError as error:
            fields = error.fields()
        except BaseException as error:
            fields = {"status": repr(error)}
        os.write(writing, json.dumps(fields).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    result: dict[str, Any] = json.loads(said)
    return result


def write_32_bit_program(path: Path) -> None:
    """Write an i386 ELF executable that calls pause for ever."""
    code = bytes.fromhex("b81d000000 cd80 ebf7")  # 1: mov eax, 29; int 0x80; jmp 1b
    address, headers = 0x08048000, 52 + 32
    size = headers + len(code)
    path.write_bytes(
        b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
        + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, address + headers, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        + struct.pack("<8I", 1, 0, address, address, size, size, 5, 0x1000)
        + code
    )
    path.chmod(0o755)

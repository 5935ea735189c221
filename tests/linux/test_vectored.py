# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of system calls, by machine code and without it."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator

import capstone
import pytest

from hotpatch.arch.vectored import CODE
from hotpatch.linux import vectored
from hotpatch.linux.vectored import Calls

WRITE, CLOSE, GETPID, PREAD64, GETTID, MREMAP = 1, 3, 39, 17, 186, 25


@pytest.fixture(params=["machine code", "one by one"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Make them in both ways; the second is that of systems which forbid the first."""
    vectored._maker.cache_clear()
    if request.param == "one by one":
        monkeypatch.setattr(vectored, "_code", lambda: None)
    yield request.param
    vectored._maker.cache_clear()


def test_the_code_is_what_its_comments_say() -> None:
    decoded = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(CODE, 0)
    assert [f"{i.mnemonic} {i.op_str}".replace("qword ptr ", "").strip() for i in decoded] == [
        "push rbx",
        "push rbp",
        "mov rbx, rdi",
        "mov rbp, rsi",
        "cmp rbx, rbp",
        "jae 0x34",
        "mov rax, [rbx]",
        "mov rdi, [rbx + 8]",
        "mov rsi, [rbx + 0x10]",
        "mov rdx, [rbx + 0x18]",
        "mov r10, [rbx + 0x20]",
        "mov r8, [rbx + 0x28]",
        "mov r9, [rbx + 0x30]",
        "syscall",
        "mov [rbx + 0x38], rax",
        "add rbx, 0x40",
        "jmp 8",
        "pop rbp",
        "pop rbx",
        "ret",
    ]


def test_results_are_those_of_the_kernel(way: str) -> None:
    calls = Calls([(GETPID,), (CLOSE, 1 << 20), (GETTID,)] * 100)
    assert len(calls) == 300
    expected = [os.getpid(), -errno.EBADF, threading.get_native_id()]
    assert calls.make() == expected * 100


def test_a_part_of_them_is_made(way: str) -> None:
    reader, writer = os.pipe()
    text = ctypes.create_string_buffer(b"abcdef", 6)
    place = ctypes.addressof(text)
    calls = Calls((WRITE, writer, place + i, 1) for i in range(len(text)))
    assert calls.make(1, 3) == [1, 1]
    assert calls.make(4) == [1, 1]
    assert calls.make(6) == calls.make(2, 2) == []
    assert os.read(reader, 100) == b"bcef"
    os.close(reader)
    os.close(writer)


def test_six_arguments_of_64_bits(way: str) -> None:
    """mremap of nothing at an address beyond 32 bits says EINVAL or EFAULT by its arguments."""
    odd, unmapped = 0x7F0000000001, 0x7F0000000000
    calls = Calls([(MREMAP, odd, 0, 4096, 0, 0), (MREMAP, unmapped, 4096, 8192, 1, 0)])
    assert calls.make() == [-errno.EINVAL, -errno.EFAULT]


def test_no_calls(way: str) -> None:
    assert Calls([]).make() == []

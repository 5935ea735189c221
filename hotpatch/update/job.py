# SPDX-License-Identifier: GPL-2.0-or-later
"""The job of the commit program: what trampolines/x86_64/transfer.S works on, and its outcome.

It lies at the low end of the stack that the program uses, which is memory of the patch:

    0       the job, and the addresses of the functions to be run
    4096    lines of text for the operator
    20480   an alternate stack for the handler of faults
    53248   the guard, and the stack (`ledger.STACK_GUARD`)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.linux.memory import Memory
from hotpatch.process import ledger

IDLE, RUNNING, OVER = 0, 1, 2
DONE, RETURNED, SIGNALLED, TIMED_OUT, GIVEN_UP, NO_CALL, NOT_ROLLED_BACK = range(1, 8)
REFUSED_CALL, LOCKED, INTERRUPTED = 16, 17, 18  # the patcher's

_MESSAGES, _ALTERNATE = 4096, 20480
_ALTERNATE_SIZE = ledger.STACK_GUARD[0] - _ALTERNATE
MESSAGES_ROOM = _ALTERNATE - _MESSAGES
_REFUSED, _FUNCTIONS = 708, 720
SETTLING_NS = 1_000_000_000
_SIGNALS = (4, 5, 6, 7, 8, 11, 31)  # as in transfer.S
_TIMER_SIGNAL = 7
_ALL = (1 << 64) - 1
_SIGEV_THREAD_ID = 4
_ACTION_FLAGS = 0x4 | 0x04000000 | 0x08000000  # SA_SIGINFO, SA_RESTORER, SA_ONSTACK
_OUTCOME = struct.Struct("<IIqIIII")
_PROGRESS = struct.Struct("<QQQ")


class Outcome(NamedTuple):
    """What the program has come to: `function` is the number of the one that runs or failed."""

    park: int
    status: int
    code: int
    function: int
    leaked: int
    phase: int
    resent: int


class Switch(NamedTuple):
    """The word that is stored when all functions have succeeded, and the header that it is in."""

    header: int
    header_size: int
    address: int
    value: int


def set_up(
    memory: Memory,
    record: ledger.Record,
    functions: Sequence[int],
    switch: Switch,
    limit_ns: int,
    attended: bool = False,
) -> None:
    """Write the job into the target, idle, and tell the patch's runtime what it needs of it.

    `attended`: right before the first function the program is to wait for the patcher.
    """
    code = record.transfer
    assert code is not None
    address = record.stack
    job = bytearray(_FUNCTIONS)

    def put(offset: int, form: str, *values: int) -> None:
        struct.pack_into("<" + form, job, offset, *values)

    put(56, "QIxxxxQ", address + _ALTERNATE, 0, _ALTERNATE_SIZE)
    put(104, "QII", 0, _TIMER_SIGNAL, _SIGEV_THREAD_ID)
    put(168, "QQQQ", 0, 0, *divmod(limit_ns, 10**9))
    put(200, "QQQQ", 0, 0, *divmod(SETTLING_NS, 10**9))
    put(232, "QQQQ", code.handler, _ACTION_FLAGS, code.restorer, _ALL)
    put(392 + 16, "Q", _ALL)  # no action was taken yet
    put(616, "QQQ", _ALL, _ALL & ~_set(_SIGNALS), _set((_TIMER_SIGNAL,)))
    put(656, "QQQI", switch.header, switch.header_size, switch.address, switch.value)
    put(688, "QQIII", code.rollback, code.settle, len(functions), 0, attended)
    memory.write(address, bytes(job) + struct.pack(f"<{len(functions)}Q", *functions))
    if code.state:  # struct hotpatch_runtime
        runtime = (code.given_up, address + _MESSAGES, MESSAGES_ROOM, 0, 0, 0, 0, 0, 0)
        memory.write(code.state, struct.pack("<9Q", *runtime))


def _set(signals: Sequence[int]) -> int:
    return sum(1 << number - 1 for number in signals)


def begin(memory: Memory, address: int) -> None:
    """Let everything begin as soon as the threads go on: the one store on which that depends."""
    memory.write(address, struct.pack("<I", RUNNING))


def refuse(memory: Memory, address: int, call: int) -> None:
    """Let the function that runs fail in the end, as it has made a system call that it must not."""
    memory.write(address + _REFUSED, struct.pack("<I", call))


def outcome(memory: Memory, address: int) -> Outcome:
    """Return what the job at `address` has come to."""
    return Outcome(*_OUTCOME.unpack(memory.read(address, _OUTCOME.size)))


def progress(memory: Memory, record: ledger.Record) -> tuple[int, int, int]:
    """Return how far the transfer is, of how much, and how many bytes it has logged."""
    assert record.transfer is not None
    if not record.transfer.state:
        return 0, 0, 0
    done, total, logged = _PROGRESS.unpack(memory.read(record.transfer.state + 32, _PROGRESS.size))
    return done, total, logged


def messages(memory: Memory, record: ledger.Record) -> tuple[str, ...]:
    """Return the lines that the patch has for the operator."""
    assert record.transfer is not None
    if not record.transfer.state:
        return ()
    (size,) = struct.unpack("<Q", memory.read(record.transfer.state + 24, 8))
    text = memory.read(record.stack + _MESSAGES, min(size, MESSAGES_ROOM))
    lines = text.decode(errors="replace").splitlines()
    return tuple("".join(c if c.isprintable() else "?" for c in line) for line in lines if line)

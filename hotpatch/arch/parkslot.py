# SPDX-License-Identifier: GPL-2.0-or-later
"""What trampolines/x86_64/parking.S brings a thread home with: its state, on its own stack.

It lies below the red zone, as a signal frame does (`arch.sigframe`), and has the signal mask and
the general registers only.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from hotpatch.arch.registers import Registers, resumed_by_hand
from hotpatch.arch.sigframe import RED_ZONE

# As they are popped there.
_POPPED = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "eflags", "rip"),
)
_SLOT = struct.Struct(f"<Q{len(_POPPED)}Q")  # the signal mask first
_RSEQ_CS = struct.Struct("<8xQQQ")  # struct rseq_cs: start_ip, post_commit_offset, abort_ip
RSEQ_CS_SIZE = _RSEQ_CS.size


class Slot(NamedTuple):
    """A slot to be written at `address`, and the registers that send the thread to the code."""

    address: int
    content: bytes
    away: Registers


def build(own: Registers, sigmask: int, section: bytes, code: int) -> Slot:
    """Return the slot of a stopped thread that is to be sent to `code`.

    `section` is the struct rseq_cs of the restartable sequence that it may be in, empty for none:
    if it is, it has to start over.
    """
    home = resumed_by_hand(own)
    if section:
        start, length, abort = _RSEQ_CS.unpack(section)
        if 0 <= own.rip - start < length:
            home.rip = abort
    content = _SLOT.pack(sigmask, *(getattr(home, name) for name in _POPPED))
    away = own.copy()
    away.go_to(code)
    away.rsp = own.rsp - RED_ZONE - len(content)
    return Slot(away.rsp, content, away)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Stage: the patch is put into the target, where nothing refers to it yet.

One thread is borrowed for the mapping; the contents are then written while the target runs.

Death here leaves a region that nothing leads to. The next patcher knows it by the name of its
header, which tells its size, or by the mark that it begins with until it has one, and removes it.
Right after the system call that maps it, it has neither, and is known by its shape
(`ledger.region_size`).
"""

from __future__ import annotations

import errno
import os
import struct
from functools import partial
from typing import NamedTuple

from hotpatch.arch import syscalls
from hotpatch.arch.registers import signed
from hotpatch.errors import Busy, HotpatchError, Refused
from hotpatch.linux.memory import Memory
from hotpatch.linux.remote import Borrowed, Overdue, Program
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.update.borrow import with_borrowed
from hotpatch.update.plan import Plan, Region
from hotpatch.update.programs import program
from hotpatch.update.session import Session

_PROT_READ, _PROT_EXEC = 1, 4
_MAP_PRIVATE_ANONYMOUS = 0x22
_MAP_NORESERVE = 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
_MFD_CLOEXEC, _MFD_NOEXEC_SEAL = 1, 8


class Occupied(Exception):
    """Something else has been mapped where a region was to go: plan again."""


def stage(session: Session, plan: Plan) -> None:
    """Map and fill the regions of a plan; raises Occupied, Refused, Busy, Denied, Gone."""
    memory = session.process.memory
    for region in plan.regions:
        with_borrowed(session, "stage", partial(_map, memory, region, _furniture(plan, region)))
    for region in plan.regions:
        for write in region.contents:
            memory.write(write.address, write.data)
    for region in plan.regions:
        memory.write(region.address, region.header)
    _read_back(session.process, plan)


class _Furniture(NamedTuple):
    """Trampolines/x86_64/stage.S with what it works on, to lie where the gates will be."""

    program: Program
    content: bytes
    name: int
    table: int


def _furniture(plan: Plan, region: Region) -> _Furniture:
    staging, code = program("stage.S", region.gates, uses_fpu=False)
    table = b"".join(struct.pack("<QQQ", *run) for run in region.runs) + bytes(24)
    name = ledger.region_name(plan.id, region.size).encode() + b"\0"
    at = region.gates + len(code)
    return _Furniture(staging, code + table + name, at + len(table), at)


def _map(memory: Memory, region: Region, furniture: _Furniture, borrowed: Borrowed) -> None:
    """Map a region, with its header in place and each page with its own protection."""
    result = borrowed.syscall(
        syscalls.MMAP,
        region.address,
        region.size,
        _PROT_READ | _PROT_EXEC,
        _MAP_PRIVATE_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE,
        -1,
        0,
    )
    if result == -errno.EEXIST:
        raise Occupied
    if result != region.address:
        if result > 0:  # before Linux 4.17 the address was only a wish
            borrowed.syscall(syscalls.MUNMAP, result, region.size)
            raise Occupied
        raise _not_mapped(-result, "executable memory")
    memory.write(region.address, ledger.mark(region.size))
    memory.write(region.gates, furniture.content)
    failed = _furnish(borrowed, region, furniture, _MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    if failed == -errno.EINVAL:  # before Linux 6.3
        failed = _furnish(borrowed, region, furniture, _MFD_CLOEXEC)
    if failed:
        borrowed.syscall(syscalls.MUNMAP, region.address, region.size)
        raise _not_mapped(-failed, "a memfd, or memory with the protection that it needs")


def _furnish(borrowed: Borrowed, region: Region, furniture: _Furniture, flags: int) -> int:
    """Run the program; return 0, or the negative error number of the call that failed."""
    try:
        registers = borrowed.run(
            furniture.program,
            rdi=furniture.name,
            rsi=flags,
            r12=region.address,
            r14=region.header_size,
            r15=furniture.table,
        )
    except Overdue:
        raise Busy(
            "the machine is too busy: a borrowed thread was not attended to in time",
            "nothing was changed; try again",
        ) from None
    return signed(registers.rbx)


def _not_mapped(number: int, what: str) -> Refused:
    return Refused(
        f"the target can't map {what}: {os.strerror(number)}",
        "look at its address space limit (RLIMIT_AS), locked memory (RLIMIT_MEMLOCK), "
        "SELinux (execmem) and seccomp",
    )


def _read_back(process: Process, plan: Plan) -> None:
    for region in plan.regions:
        for write in (ledger.Write(region.address, region.header), *region.contents):
            if process.read(write.address, len(write.data)) != write.data:
                raise HotpatchError(
                    f"what was written to {write.address:#x} reads back differently",
                    "nothing leads there, and the target is unchanged",
                )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Stage: the patch is put into the target, where nothing refers to it yet.

One thread is borrowed for the mapping; the contents are then written while the target runs.

Death here leaves a region that nothing leads to. The next patcher knows it by the name of its
header, which tells its size, and removes it; only between the two system calls that make the
mapping and give it its header is it without a name, and then stays: address space, but no page of
memory.
"""

from __future__ import annotations

import errno
import os
from functools import partial

from hotpatch.arch import assembler, syscalls
from hotpatch.errors import HotpatchError, Refused
from hotpatch.linux.memory import Memory
from hotpatch.linux.remote import Borrowed
from hotpatch.process import ledger
from hotpatch.process.image import Process
from hotpatch.update.borrow import with_borrowed
from hotpatch.update.plan import Plan, Region
from hotpatch.update.session import Session

_PROT_READ, _PROT_EXEC = 1, 4
_MAP_PRIVATE_ANONYMOUS = 0x22
_MAP_FIXED_NOREPLACE = 0x100000
_MFD_CLOEXEC, _MFD_NOEXEC_SEAL = 1, 8


class Occupied(Exception):
    """Something else has been mapped where a region was to go: plan again."""


def stage(session: Session, plan: Plan) -> None:
    """Map and fill the regions of a plan; raises Occupied, Refused, Busy, Denied, Gone."""
    memory = session.process.memory
    for region in plan.regions:
        code = assembler.assemble("stage.S", region.gates).code
        name = ledger.region_name(plan.id, region.size).encode() + b"\0"
        action = partial(_map, memory, region, code + name, region.gates + len(code))
        with_borrowed(session, "stage", action)
    for region in plan.regions:
        for write in region.contents:
            memory.write(write.address, write.data)
    for region in plan.regions:
        memory.write(region.address, region.header)
    _read_back(session.process, plan)


def _map(memory: Memory, region: Region, code: bytes, name: int, borrowed: Borrowed) -> None:
    """Map a region, with its header in place and each page with its own protection.

    `code` lays the header; it is put where the gates will be, and has the `name` at its end.
    """
    result = borrowed.syscall(
        syscalls.MMAP,
        region.address,
        region.size,
        _PROT_READ | _PROT_EXEC,
        _MAP_PRIVATE_ANONYMOUS | _MAP_FIXED_NOREPLACE,
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
    try:
        memory.write(region.gates, code)
        _lay_header(borrowed, region, name)
        for run in region.runs:
            failed = borrowed.syscall(syscalls.MPROTECT, run.address, run.size, run.prot)
            if failed:
                raise _not_mapped(-failed, "memory of the wanted protection")
    except HotpatchError:
        borrowed.syscall(syscalls.MUNMAP, region.address, region.size)
        raise


def _lay_header(borrowed: Borrowed, region: Region, name: int) -> None:
    """Run trampolines/x86_64/stage.S; an older kernel doesn't know MFD_NOEXEC_SEAL."""
    result = 0
    for flags in (_MFD_CLOEXEC | _MFD_NOEXEC_SEAL, _MFD_CLOEXEC):
        result = borrowed.run(
            region.gates, rdi=name, rsi=flags, r12=region.address, r13=region.header_size
        ).rbx
        if result == region.address:
            return
    raise _not_mapped((1 << 64) - result, "a memfd")


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

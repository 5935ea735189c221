# SPDX-License-Identifier: GPL-2.0-or-later
"""Getting at a process, and saying why the kernel doesn't let us.

The conditions are those of `__ptrace_may_access` (kernel/ptrace.c), the Yama module
(Documentation/admin-guide/LSM/Yama.rst) and `ptrace_attach`.
"""

from __future__ import annotations

import contextlib
import os

from hotpatch.errors import Denied, Gone, Refused
from hotpatch.linux import procfs
from hotpatch.linux.memory import Memory

_CAP_SYS_PTRACE = 19
_PF_KTHREAD = 0x00200000


def check_kind(pid: int) -> None:
    """Raise Refused or Gone for what can't be patched by its nature."""
    if pid == os.getpid():
        raise Refused("a process can't patch itself", "run hotpatch as a process of its own")
    status = procfs.status(pid)
    if status.get("Tgid", str(pid)) != str(pid):
        raise Refused(
            f"{pid} is a thread of process {status['Tgid']}", f"name the process: {status['Tgid']}"
        )
    if status.get("State", "").startswith(("Z", "X")) and len(procfs.threads(pid)) <= 1:
        raise Gone(f"process {pid} has ended and waits for its parent to notice")
    if status.get("Kthread") == "1" or ("VmSize" not in status and _is_kernel_thread(pid)):
        raise Refused(f"process {pid} is a thread of the kernel", "livepatch is for those")
    if "shstk" in status.get("x86_Thread_features", "").split():
        raise Refused(
            f"process {pid} runs with a user shadow stack",
            "remote calls can't return through it yet: start it with GLIBC_TUNABLES="
            "glibc.cpu.x86_shstk=off",
        )


def _is_kernel_thread(pid: int) -> bool:
    try:
        stat = procfs.read(f"/proc/{pid}/stat")
    except OSError:
        return False
    return bool(int(stat[stat.rindex(b")") + 2 :].split()[6]) & _PF_KTHREAD)


def open_pidfd(pid: int) -> int:
    """Return a pidfd(2) of a process; raises Gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise Gone(f"there is no process {pid}", "is the pid right, and still alive?") from None


def open_memory(pid: int) -> Memory:
    """Open a process's memory; raises Denied with the cause, or Gone."""
    try:
        return Memory(pid)
    except PermissionError:
        raise why_denied(pid) from None
    except (FileNotFoundError, ProcessLookupError):
        raise Gone(f"process {pid} ended") from None


def why_denied(pid: int) -> Denied:
    """Return the error for a process that the kernel doesn't let us trace."""
    status = procfs.status(pid)
    tracer = _tracer(pid)
    if tracer:
        return Denied(
            f"process {pid} is traced by process {tracer} ({procfs.command_name(tracer)})",
            "a process has one tracer at a time: end the other one",
            cause="tracer",
        )
    own = procfs.status(os.getpid())
    scope = _yama_scope()
    if own.get("Seccomp", "0") != "0":
        return Denied(
            f"a seccomp filter keeps hotpatch from process {pid}",
            "run it outside of that container or service, or allow ptrace, process_vm_readv "
            "and pidfd_open there",
            cause="seccomp",
        )
    if int(own.get("CapEff", "0"), 16) >> _CAP_SYS_PTRACE & 1:
        return Denied(
            f"the kernel denies access to process {pid} although CAP_SYS_PTRACE is held",
            f"look at its user namespace, at Yama (ptrace_scope is {scope}) and at the audit log "
            "of SELinux or AppArmor",
            cause="lsm",
        )
    if scope != "0" and status.get("Uid", "").split()[:1] == [str(os.geteuid())]:
        return Denied(
            f"Yama keeps hotpatch from process {pid} (kernel.yama.ptrace_scope is {scope})",
            "run it as root or with CAP_SYS_PTRACE, or set kernel.yama.ptrace_scope to 0",
            cause="yama",
        )
    return Denied(
        f"process {pid} belongs to uid {status.get('Uid', '?').split()[0]}",
        "run hotpatch as root, or give it CAP_SYS_PTRACE",
        cause="capability",
    )


def _tracer(pid: int) -> int:
    """Return the tracer of a process or of a single thread of it, 0 for none."""
    for tid in (pid, *procfs.threads(pid)):
        with contextlib.suppress(Gone):
            if tracer := int(procfs.status(pid, tid).get("TracerPid", "0")):
                return tracer
    return 0


def _yama_scope() -> str:
    try:
        return procfs.read("/proc/sys/kernel/yama/ptrace_scope").decode().strip()
    except OSError:
        return "0"


def lock_holder(fd: int) -> str:
    """Return " (pid N)" for the process that holds a flock on an open file, "" if not known."""
    inode = str(os.fstat(fd).st_ino)
    for line in procfs.read("/proc/locks").decode().splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
            return f" (pid {fields[4]})"
    return ""

# SPDX-License-Identifier: GPL-2.0-or-later
"""A process as a patcher sees it: who it is, what it has mapped, what was done to it before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from hotpatch.arch import syscalls
from hotpatch.errors import Denied, Gone, HotpatchError, Refused
from hotpatch.linux import access, procfs, remote
from hotpatch.linux.restart import Restarter
from hotpatch.process import ledger

if TYPE_CHECKING:
    from hotpatch.process.modules import Module

_LARGEST_TEXT = 64 << 20
_END_TIME = 0.1


class Symbolic(NamedTuple):
    """An address in terms of a module's symbols."""

    module: str
    function: str
    offset: int

    def __str__(self) -> str:
        return f"{self.function}+{self.offset:#x} ({self.module})"


class Process:
    """A live process, held by pidfd so that its pid can't come to mean another.

    A context manager; everything read from it is cached until `refresh`.
    """

    def __init__(self, pid: int) -> None:
        """Open process `pid`; raises Gone, Denied, and Refused for what is no ordinary program."""
        self.pid = pid
        self._lock = -1
        access.check_kind(pid)
        self._pidfd = access.open_pidfd(pid)
        try:
            self.memory = access.open_memory(pid)
        except BaseException:
            os.close(self._pidfd)
            raise
        self.restarter = Restarter(self.memory)
        self._gadgets: tuple[remote.Gadgets, set[procfs.Mapping]] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Forget what was read."""
        self._mappings: list[procfs.Mapping] | None = None
        self._modules: tuple[Module, ...] | None = None
        self._vdso: tuple[Module | None] | None = None
        self._ledger: tuple[list[ledger.Entry], list[ledger.Remnant]] | None = None

    def close(self) -> None:
        """Let go of it."""
        self.memory.close()
        for fd in (self._pidfd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._pidfd = self._lock = -1

    def __enter__(self) -> Process:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self.close()

    def lock(self) -> None:
        """Keep other patchers out; raises Denied where one is at work.

        The lock is one of flock(2) on /proc/PID, so it ends with its holder, and lies on no disk.
        """
        if self._lock >= 0:
            return
        fd = os.open(f"/proc/{self.pid}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = access.lock_holder(fd)
            os.close(fd)
            raise Denied(
                f"another hotpatch{holder} is at work on process {self.pid}",
                "wait until it is done, then try again",
            ) from None
        self._lock = fd

    def unlock(self) -> None:
        """Let other patchers in."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def alive(self) -> bool:
        """Say whether the process has not ended."""
        return not select.select([self._pidfd], [], [], 0)[0]

    def check_alive(self) -> None:
        """Raise Gone where it has ended."""
        if not self.alive():
            raise Gone(f"process {self.pid} ended")

    @contextlib.contextmanager
    def expected_alive(self) -> Iterator[None]:
        """Turn what its end, or a call of exec, makes fail in this context into Gone."""
        try:
            yield
        except OSError as error:
            if isinstance(error, HotpatchError):
                raise
            if self._has_ended():
                raise Gone(f"process {self.pid} ended") from error
            if self.memory.abandoned():
                raise Gone(
                    f"process {self.pid} runs another program now: it called exec",
                    "a patch ends with the program that it was for",
                ) from error
            raise

    def _has_ended(self) -> bool:
        """Say whether it is ending: its threads go before it is reported."""
        return bool(select.select([self._pidfd], [], [], _END_TIME)[0])

    @property
    def mappings(self) -> list[procfs.Mapping]:
        """Return its memory map."""
        if self._mappings is None:
            try:
                self._mappings = procfs.mappings(self.pid)
            except (FileNotFoundError, ProcessLookupError):
                raise Gone(f"process {self.pid} ended") from None
        return self._mappings

    @property
    def modules(self) -> tuple[Module, ...]:
        """Return the program and its libraries, in search order; Refused without a program."""
        if self._modules is None:
            from hotpatch.process.modules import find_modules  # noqa: PLC0415 - reads ELF

            anchor = procfs.anchor(self.pid)
            self._modules = find_modules(anchor, self.mappings, self.memory.read)
            if not self._modules or not self._modules[0].program:
                raise Refused(
                    f"the program of process {self.pid} can't be read as an x86-64 ELF file",
                    "only 64-bit native programs can be patched",
                )
        return self._modules

    @property
    def vdso(self) -> Module | None:
        """Return the kernel's shared object, which is none of `modules`; None without one."""
        if self._vdso is None:
            from hotpatch.process.modules import find_vdso  # noqa: PLC0415 - reads ELF

            self._vdso = (find_vdso(self.mappings, self.read),)
        return self._vdso[0]

    @property
    def patches(self) -> list[ledger.Entry]:
        """Return the records of patches in it, oldest commit first."""
        return self._find_ledger()[0]

    @property
    def remnants(self) -> list[ledger.Remnant]:
        """Return regions that a dead patcher left without a record."""
        return self._find_ledger()[1]

    def _find_ledger(self) -> tuple[list[ledger.Entry], list[ledger.Remnant]]:
        if self._ledger is None:
            self._ledger = ledger.find(self.mappings, self.memory)
        return self._ledger

    @property
    def gadgets(self) -> remote.Gadgets:
        """Return the code that remote calls need; raises Refused where the target has none.

        They are looked for once, which takes 2 ms, as long as the code that has them stays.
        """
        if self._gadgets is None or not self._gadgets[1] <= set(self.mappings):
            self._gadgets = self._find_gadgets()
        return self._gadgets[0]

    def _find_gadgets(self) -> tuple[remote.Gadgets, set[procfs.Mapping]]:
        code = [m for m in self.mappings if "x" in m.protection and "r" in m.protection]
        code = [m for m in code if _stays(m) and m.end - m.start < _LARGEST_TEXT]
        code.sort(key=lambda m: "libc" not in m.path)  # where they are, nearly always
        pieces: list[tuple[int, bytes]] = []
        for number, mapping in enumerate(code, 1):
            pieces.append((mapping.start, self.read(mapping.start, mapping.end - mapping.start)))
            found = remote.find_gadgets(pieces)
            if found:
                return found, set(code[:number])
        raise Refused(
            "the target has no `syscall; ret` and no signal return in its code",
            "programs without a C library or Go runtime can't be patched",
        )

    def read(self, address: int, size: int) -> bytes:
        """Return memory of the target; raises OSError where it isn't mapped, Gone."""
        return self.memory.read(address, size)

    def call_name(self, sleep: procfs.Sleep) -> str:
        """Return the name of the system call that a thread sleeps in, as the program made it."""
        number = sleep.number
        if number == syscalls.RESTART_SYSCALL:
            with contextlib.suppress(OSError):
                number = syscalls.number_before(self.read(sleep.rip - 7, 7)) or number
        return syscalls.name(number)

    def module_at(self, address: int) -> Module | None:
        """Return the module that an address lies in."""
        return next((m for m in self.modules if m.start <= address < m.end), None)

    def code_at(self, address: int) -> Module | None:
        """Return the same; or the vdso, if the address lies there."""
        module = self.module_at(address)
        if module is None and self.vdso and self.vdso.start <= address < self.vdso.end:
            return self.vdso
        return module

    def symbolic(self, address: int) -> Symbolic | None:
        """Return an address as function and offset, as well as symbols allow."""
        for entry in self.patches:
            for function in entry.record.functions:
                gate, size = function.gate
                if gate <= address < gate + size:
                    return Symbolic("gate", function.name, address - gate)
            for start, size in entry.record.regions:
                if start <= address < start + size:
                    return Symbolic(f"patch {entry.record.name}", f"{start:#x}", address - start)
        module = self.code_at(address)
        if module is None:
            return None
        symbol = module.elf.symbols.at(address - module.bias)
        if symbol is None:
            return Symbolic(module.name, f"{module.start:#x}", address - module.start)
        return Symbolic(module.name, symbol.name, address - module.bias - symbol.value)


def _stays(mapping: procfs.Mapping) -> bool:
    """Say whether code will still be there in a moment.

    What a compiler at run time has made, or a patcher, may be unmapped while we lean on it.
    """
    in_file = mapping.inode != 0 and not mapping.path.startswith("/memfd:")
    return in_file or mapping.path == "[vdso]"

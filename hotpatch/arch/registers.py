# SPDX-License-Identifier: GPL-2.0-or-later
"""General registers of a stopped thread, and how an interrupted system call goes on.

`Registers` is `struct user_regs_struct` of <sys/user.h>, as PTRACE_GETREGS fills it.

A thread that is stopped inside a system call has left the call: `rax` holds what the call
returned and `orig_rax` its number. The kernel looks at both when the thread goes on
(`arch_do_signal_or_restart`, arch/x86/kernel/signal.c): four private error numbers make it
execute the call again, unless a signal handler runs first that asks for EINTR. Calls that return
a plain -EINTR instead are not repeated: a stop would be visible in them.
"""

from __future__ import annotations

import ctypes

ERESTARTSYS = 512
ERESTARTNOINTR = 513
ERESTARTNOHAND = 514
ERESTART_RESTARTBLOCK = 516
EINTR = 4
ENOSYS = 38

SYSCALL_INSTRUCTION_SIZE = 2
USER_CODE_SEGMENT = 0x33  # __USER_CS: 64-bit user code; 0x23 is a 32-bit program

# fmt: off
_NAMES = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
    "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs",
    "gs",
)
# fmt: on

ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


class Registers(ctypes.Structure):
    """`struct user_regs_struct`; every field an unsigned 64-bit word."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in _NAMES)

    r15: int
    r14: int
    r13: int
    r12: int
    rbp: int
    rbx: int
    r11: int
    r10: int
    r9: int
    r8: int
    rax: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    orig_rax: int
    rip: int
    cs: int
    eflags: int
    rsp: int
    ss: int
    fs_base: int
    gs_base: int

    def __getitem__(self, register: str) -> int:
        """Return a register by name."""
        value: int = getattr(self, register)
        return value

    def __setitem__(self, register: str, value: int) -> None:
        """Set a register by name."""
        setattr(self, register, value)

    def copy(self) -> Registers:
        """Return a copy that can be changed."""
        return Registers.from_buffer_copy(self)

    @property
    def syscall(self) -> int | None:
        """Return the number of the system call that the thread is in, if it is in one."""
        return self.orig_rax if self.orig_rax < 1 << 31 else None

    @property
    def result(self) -> int:
        """Return `rax` as the signed result of a system call."""
        return signed(self.rax)

    @property
    def enters_call(self) -> bool:
        """Say whether a thread at a system call stop is about to make the call."""
        return self.result == -ENOSYS

    def argument(self, number: int) -> int:
        """Return an argument of the system call, counted from 0."""
        return self[ARGUMENTS[number]]

    def refuse_call(self, error: int) -> None:
        """Let a call that is about to be made fail with an error number instead."""
        self.orig_rax, self.rax = NO_SYSCALL, unsigned(-error)

    def go_to(self, address: int) -> None:
        """Go on there, and not in the system call, if the thread is in one."""
        self.rip, self.orig_rax = address, NO_SYSCALL


SIZE = ctypes.sizeof(Registers)
COUNT = len(_NAMES)
NUMBER = {name: number for number, name in enumerate(_NAMES)}
"""Which of the words of `Registers` a register is."""
NO_SYSCALL = (1 << 64) - 1


def unsigned(value: int) -> int:
    """Return a signed number as the 64-bit word that a register holds."""
    return value & NO_SYSCALL


def signed(value: int) -> int:
    """Return the word that a register holds as a signed number."""
    return value - (1 << 64) if value >> 63 else value


def resumed_by_hand(registers: Registers) -> Registers:
    """Return the registers with which the thread goes on without the kernel's help.

    What the kernel would do for an interrupted call on the way to user mode is done here, for
    a thread that returns by rt_sigreturn instead. That call forgets a pending restart block
    (`restore_sigcontext`), so a sleep that had one starts again with its full time.
    """
    result = registers.copy()
    result.orig_rax = NO_SYSCALL
    if registers.syscall is not None and -registers.result in (
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
        EINTR,
    ):
        result.rax = registers.orig_rax
        result.rip = registers.rip - SYSCALL_INSTRUCTION_SIZE
    return result

# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine code for ourselves: a list of system calls, made one behind the other.

    void make(struct call *next, struct call *end)      /* psABI 3.2: rdi, rsi */

It is handed bytes, not source, as it is needed also where nothing has to be assembled.
"""

from __future__ import annotations

WORDS = 8
"""Of `struct call`: the number, six arguments, and room for the result."""

# fmt: off
CODE = bytes.fromhex(
    "53"            # push rbx
    "55"            # push rbp
    "48 89fb"       # mov  rbx, rdi
    "48 89f5"       # mov  rbp, rsi
    "48 39eb"       # cmp  rbx, rbp
    "73 27"         # jae  done
    "48 8b03"       # mov  rax, [rbx]
    "48 8b7b 08"    # mov  rdi, [rbx + 8]
    "48 8b73 10"    # mov  rsi, [rbx + 16]
    "48 8b53 18"    # mov  rdx, [rbx + 24]
    "4c 8b53 20"    # mov  r10, [rbx + 32]
    "4c 8b43 28"    # mov  r8, [rbx + 40]
    "4c 8b4b 30"    # mov  r9, [rbx + 48]
    "0f05"          # syscall
    "48 8943 38"    # mov  [rbx + 56], rax
    "48 83c3 40"    # add  rbx, 64
    "eb d4"         # jmp  to the comparison
    "5d"            # done: pop rbp
    "5b"            # pop  rbx
    "c3"            # ret
)
# fmt: on

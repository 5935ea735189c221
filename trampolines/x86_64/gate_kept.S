/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The gate of a function whose first instructions stay where they are,
 * before the entry jump, because the jump does not fit in their page.
 * They only move rsp (push, sub rsp), so undoing them is one addition.
 *
 * On entry   those instructions have been run: rsp is `undo` bytes lower
 *            than at the function's entry, nothing else differs
 * On exit    at `new` as at the function's entry, or at `old` unchanged
 * Registers  rsp as said, no other changed
 * Flags      changed: they are dead at a function's entry
 * Stack      not written
 * Symbols    switch, new  as in gate.S
 *            undo         bytes by which rsp was lowered
 */
gate:
        cmp     dword ptr [rip + switch], 0
        je      old
        lea     rsp, [rsp + undo]
        jmp     new
old:

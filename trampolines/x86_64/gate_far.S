/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The gate where the switch or the replacement is further than 2 GB away.
 *
 * On entry   as gate.S or gate_kept.S
 * On exit    at `new` as at the function's entry, or at `old` unchanged
 * Registers  none changed (rsp raised by `undo` on the way to `new`)
 * Flags      changed: they are dead at a function's entry
 * Stack      8 bytes written below the red zone, which may be in use where
 *            a loop of the function leads back to its entry
 * Symbols    switch  the word that commits the patch, 0 is off; anywhere
 *            new     the replacement; anywhere
 *            undo    bytes by which instructions kept before the jump
 *                    lowered rsp, 0 if there are none
 *
 * The jump has a notrack prefix: `new` need not begin with endbr64.
 */
gate:
        lea     rsp, [rsp - 128]
        push    rax
        movabs  eax, dword ptr [switch]
        test    eax, eax
        pop     rax
        lea     rsp, [rsp + 128]
        je      old
        lea     rsp, [rsp + undo]
        .byte   0x3e
        jmp     qword ptr [rip + slot]
slot:
        .quad   new
old:

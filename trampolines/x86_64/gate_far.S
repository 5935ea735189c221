/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The test of a gate whose switch is further than 2 GB away. What goes to
 * the replacement follows this code.
 *
 * On entry   as at the function's entry, or behind its first instructions
 * On exit    behind this code if the switch is 1, at `wait` if it is
 *            negative, else at `old`; in the same state
 * Registers  none changed
 * Flags      changed: they are dead at a function's entry (psABI 3.2.1)
 * Stack      8 bytes written below the red zone, which may be in use where
 *            a loop of the function leads back to its entry
 * Symbols    switch  the word that commits the patch; anywhere
 *            old     the old path
 *            wait    gate_wait.S, or the old path where callers never wait
 */
gate:
        lea     rsp, [rsp - 128]
        push    rax
        movabs  eax, dword ptr [switch]
        test    eax, eax
        pop     rax
        lea     rsp, [rsp + 128]
        je      old
        js      wait

/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The gate of one function: tests the patch's switch and goes old or new, or
 * to wait until the switch says more.
 *
 * On entry   as at the function's entry: called through the entry jump, the
 *            arguments in their registers and on the stack, (rsp) the
 *            return address of the caller
 * On exit    at `new` if the switch is 1, at `wait` if it is negative, else
 *            behind this code (the old path); in the same state
 * Registers  none changed
 * Flags      changed: they are dead at a function's entry (psABI 3.2.1)
 * Stack      not touched, nor the area below rsp
 * Symbols    switch  the word that commits the patch; within 2 GB
 *            new     the replacement; within 2 GB
 *            wait    gate_wait.S, or the old path where callers never wait
 */
gate:
        cmp     dword ptr [rip + switch], 0
        jg      new
        jl      wait

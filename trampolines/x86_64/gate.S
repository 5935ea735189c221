/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The gate of one function: tests the patch's switch and goes old or new.
 *
 * On entry   as at the function's entry: called through the entry jump, the
 *            arguments in their registers and on the stack, (rsp) the
 *            return address of the caller
 * On exit    at `new`, or behind this code (the old path), in the same state
 * Registers  none changed
 * Flags      changed: they are dead at a function's entry (psABI 3.2.1)
 * Stack      not touched, nor the area below rsp
 * Symbols    switch  the word that commits the patch, 0 is off; within 2 GB
 *            new     the replacement; within 2 GB
 */
gate:
        cmp     dword ptr [rip + switch], 0
        jne     new

/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The jump of a gate to a replacement further than 2 GB away. It has a
 * notrack prefix: `new` need not begin with endbr64.
 *
 * On entry   as at the function's entry
 * On exit    at `new`, in the same state
 * Registers  none changed, nor flags and stack
 * Symbols    new  the replacement; anywhere
 */
gate_far_jump:
        .byte   0x3e
        jmp     qword ptr [rip + slot]
slot:
        .quad   new

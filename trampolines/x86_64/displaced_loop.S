/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What follows a moved loop, loope, loopne, jecxz or jrcxz, which have an
 * 8-bit displacement only: the moved one goes to `taken`, 2 bytes on.
 *
 * On entry   the branch is not taken at `not_taken`, taken at `taken`
 * On exit    behind this code, or at `target`
 * Registers  none changed, nor flags and stack
 * Symbols    target  where the branch goes when taken
 */
not_taken:
        jmp     next
taken:
        jmp     target
next:

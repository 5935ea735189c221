/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The test of a gate where something has to be done before the replacement
 * is entered: undoing the first instructions of the function, which stay in
 * place where the entry jump does not fit in their page; or a jump further
 * than 2 GB. What is done follows this code.
 *
 * On entry   as at the function's entry, or behind its first instructions
 * On exit    behind this code if the switch is 1, at `wait` if it is
 *            negative, else at `old`; in the same state
 * Registers  none changed
 * Flags      changed: they are dead at a function's entry (psABI 3.2.1)
 * Stack      not touched, nor the area below rsp
 * Symbols    switch  the word that commits the patch; within 2 GB
 *            old     the old path
 *            wait    gate_wait.S, or the old path where callers never wait
 */
gate:
        cmp     dword ptr [rip + switch], 0
        je      old
        jl      wait

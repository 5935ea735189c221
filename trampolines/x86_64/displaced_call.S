/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A call that was moved out from under the entry jump: the first half,
 * followed by a jump to where the call went.
 *
 * On entry   as at the call instruction
 * On exit    (rsp) is the return address that the call pushes where the
 *            compiler put it, so that the callee returns into the old
 *            function and unwinders find their way
 * Registers  rsp lowered by 8, no other changed
 * Flags      not changed
 * Stack      8 bytes pushed, in one instruction
 *            (a shadow stack, where one is in use, does not get the address)
 * Symbols    return_slot  address of the 8 bytes that hold the return address
 */
call:
        push    qword ptr [rip + return_slot]

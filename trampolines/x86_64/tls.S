/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Thread-local variables of the target, as the patch's code reaches them.
 *
 * Variables of modules loaded at start-up lie at a fixed distance from the thread
 * pointer (psABI, "ELF Handling for Thread-Local Storage", variant II), so no library is
 * needed to find them, and a program without any dynamic linker can have a patch that uses them.
 */

/*
 * tls_get_addr: takes the place of __tls_get_addr(tls_index *).
 *
 * On entry   rdi points to two words: a module id and an offset in its block,
 *            or 0 and a distance from the thread pointer
 * On exit    rax the variable's address
 * Registers  rax changed; else what the target's __tls_get_addr changes
 * Symbols    real    __tls_get_addr of the target, 0 if it has none, in which
 *                    case the linker makes no pair with a module id
 */
tls_get_addr:
        mov     rax, qword ptr [rdi]
        test    rax, rax
        jne     dynamic
        mov     rax, qword ptr fs:[0]
        add     rax, qword ptr [rdi + 8]
        ret
dynamic:
        jmp     qword ptr [rip + real_pointer]

/*
 * tls_descriptor: the resolver of TLS descriptors with a fixed offset.
 *
 * On entry   rax points to two words: this function and a distance from the
 *            thread pointer; called with a calling convention of its own
 * On exit    rax the distance
 * Registers  none changed but rax, nor the flags (Oliva and de Araujo, "Speeding
 *            Up Thread-Local Storage Access in Dynamic Libraries", 2006)
 */
        .balign 16
tls_descriptor:
        mov     rax, qword ptr [rax + 8]
        ret

        .balign 8
real_pointer:
        .quad   real

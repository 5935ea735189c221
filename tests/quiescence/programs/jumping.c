/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asleep in the handler of a signal that interrupted a function at its last jump: its caller's frame
 * begins where it stands itself, as at the end of what lands an exception in libgcc.
 */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

void jumps(void);
__asm__(".text\n"
        ".globl jumps\n"
        ".type jumps, @function\n"
        "jumps:\n"
        ".cfi_startproc\n"
        "pop %rcx\n"
        ".cfi_def_cfa %rsp, 0\n"
        ".cfi_register %rip, %rcx\n"
        "ud2\n"
        "jmp *%rcx\n"
        ".cfi_endproc\n"
        ".size jumps, . - jumps\n");

static void on_signal(int signal)
{
    char byte;

    (void)signal;
    printf("READY pid=%d\n", getpid());
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}

int main(void)
{
    signal(SIGILL, on_signal);
    jumps();
    return 0;
}

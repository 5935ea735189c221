/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asleep in a signal handler that was set without the C library, so that it returns through code of
 * which no call frame information speaks; its name is for gdb. With an argument it runs on an alternate stack.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SA_RESTORER 0x04000000

struct kernel_sigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    unsigned long mask;
};

void __restore_rt(void);
__asm__(".text\n"
        "ret\n" /* not part of it */
        ".globl __restore_rt\n"
        "__restore_rt:\n"
#ifdef SHORT
        "mov $15, %eax\n"
#else
        "mov $15, %rax\n"
#endif
        "syscall\n"
        "hlt\n");

static void on_signal(int signal)
{
    char byte;

    (void)signal;
    printf("READY pid=%d\n", getpid());
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
}

int main(int argc, char **argv)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct kernel_sigaction action = {on_signal, SA_RESTORER | (argc > 1 ? SA_ONSTACK : 0),
                                      __restore_rt, 0};

    (void)argv;
    sigaltstack(&alternate, NULL);
    syscall(SYS_rt_sigaction, SIGUSR1, &action, NULL, 8);
    raise(SIGUSR1);
    return 0;
}

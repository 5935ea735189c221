/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * meddle WHAT [VALUE] TID: does to a thread what hotpatch must never do, to show that the test
 * programs notice.
 *
 *   general    change r13            xsave OFFSET    change a byte of the XSAVE area
 *   flags      change DF             swallow SIGNAL  keep the next such signal from it
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#define DIRECTION_FLAG 0x400

static pid_t thread;

static void require(bool condition, const char *what)
{
    if (condition)
        return;
    perror(what);
    exit(1);
}

static int wait_for_stop(void)
{
    int status;

    require(waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status), "waitpid");
    return status;
}

static void change_registers(bool flags)
{
    struct user_regs_struct registers;

    require(ptrace(PTRACE_GETREGS, thread, 0, &registers) == 0, "PTRACE_GETREGS");
    if (flags)
        registers.eflags ^= DIRECTION_FLAG;
    else
        registers.r13 ^= 1;
    require(ptrace(PTRACE_SETREGS, thread, 0, &registers) == 0, "PTRACE_SETREGS");
}

static void change_xsave_byte(int offset)
{
    static unsigned char area[16384];
    struct iovec vector = {area, sizeof area};

    require(ptrace(PTRACE_GETREGSET, thread, NT_X86_XSTATE, &vector) == 0, "PTRACE_GETREGSET");
    require(offset >= 0 && (size_t)offset < vector.iov_len, "OFFSET");
    area[offset] ^= 1;
    require(ptrace(PTRACE_SETREGSET, thread, NT_X86_XSTATE, &vector) == 0, "PTRACE_SETREGSET");
}

static void swallow(int signal)
{
    int deliver = 0;

    do {
        int status;

        require(ptrace(PTRACE_CONT, thread, 0, deliver) == 0, "PTRACE_CONT");
        status = wait_for_stop();
        deliver = status >> 16 ? 0 : WSTOPSIG(status);
    } while (deliver != signal);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    int value = argc > 3 ? atoi(argv[2]) : 0;

    thread = argc > 2 ? atoi(argv[argc - 1]) : 0;
    require(ptrace(PTRACE_SEIZE, thread, 0, 0) == 0, "PTRACE_SEIZE");
    require(ptrace(PTRACE_INTERRUPT, thread, 0, 0) == 0, "PTRACE_INTERRUPT");
    wait_for_stop();
    if (strcmp(what, "general") == 0 || strcmp(what, "flags") == 0)
        change_registers(strcmp(what, "flags") == 0);
    else if (strcmp(what, "xsave") == 0)
        change_xsave_byte(value);
    else if (strcmp(what, "swallow") == 0)
        swallow(value);
    require(ptrace(PTRACE_DETACH, thread, 0, 0) == 0, "PTRACE_DETACH");
    return 0;
}

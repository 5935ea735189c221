/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seccomp FILTER: a process under a seccomp filter, in all its threads.
 *
 *   allow        allows everything
 *   kill-mmap    mmap kills the process
 *   errno-exec   mprotect and mmap with PROT_EXEC fail with EPERM
 *   no-memfd     memfd_create fails with EPERM
 *   kill-wait    rt_sigtimedwait kills the process
 *   no-clone     clone fails with EPERM
 *   strict       only what this program needs from here on; all else kills the process
 *
 * {"filter":"allow","tids":[...],"progress":[...],"answers":[...],"answer":1}
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)
/* If the loaded value is this, take the next instruction, else skip it. */
#define IF(value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1)
#define IF_SET(bit) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bit, 0, 1)
#define ALLOW RETURN(SECCOMP_RET_ALLOW)
#define KILL RETURN(SECCOMP_RET_KILL_PROCESS)
#define FAIL RETURN(SECCOMP_RET_ERRNO | EPERM)

static struct sock_filter allow[] = {ALLOW};
static struct sock_filter kill_mmap[] = {LOAD(nr), IF(SYS_mmap), KILL, ALLOW};
static struct sock_filter no_memfd[] = {LOAD(nr), IF(SYS_memfd_create), FAIL, ALLOW};
static struct sock_filter kill_wait[] = {LOAD(nr), IF(SYS_rt_sigtimedwait), KILL, ALLOW};
static struct sock_filter no_clone[] = {LOAD(nr), IF(SYS_clone), FAIL, ALLOW};
static struct sock_filter errno_exec[] = {
    LOAD(nr),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 2, 0),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 1, 0),
    ALLOW,
    LOAD(args[2]), /* prot, its low half */
    IF_SET(PROT_EXEC),
    FAIL,
    ALLOW,
};
static struct sock_filter strict[] = {
    LOAD(nr), IF(SYS_read),
    ALLOW,    IF(SYS_write),
    ALLOW,    IF(SYS_clock_nanosleep),
    ALLOW,    IF(SYS_exit_group),
    ALLOW,    IF(SYS_getpid),
    ALLOW,    IF(SYS_rt_sigreturn),
    ALLOW,    IF(SYS_restart_syscall),
    ALLOW,    IF(SYS_futex),
    ALLOW,    KILL,
};

#define FILTER(name, code)                                                                         \
    {                                                                                              \
        name,                                                                                      \
        {                                                                                          \
            sizeof(code) / sizeof *(code), code                                                    \
        }                                                                                          \
    }
static const struct {
    const char *name;
    struct sock_fprog program;
} filters[] = {
    FILTER("allow", allow),       FILTER("kill-mmap", kill_mmap), FILTER("errno-exec", errno_exec),
    FILTER("no-memfd", no_memfd), FILTER("no-clone", no_clone),   FILTER("strict", strict),
    FILTER("kill-wait", kill_wait),
};
#define FILTERS (int)(sizeof filters / sizeof *filters)

static struct worker workers[2];
static const char *chosen;

static void install(const char *name)
{
    for (int i = 0; i < FILTERS; i++) {
        if (strcmp(filters[i].name, name) != 0)
            continue;
        chosen = filters[i].name;
        require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
        require(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                        &filters[i].program) == 0,
                "seccomp");
    }
    errno = EINVAL;
    require(chosen != NULL, name);
}

static void work(void *argument)
{
    for (;;) {
        work_done(argument);
        usleep(1000);
    }
}

static void report(FILE *out)
{
    fprintf(out, "\"filter\":\"%s\",", chosen);
    report_workers(out, workers, 2);
}

int main(int argc, char **argv)
{
    static char buffer[1 << 16];

    setvbuf(stdout, buffer, _IOFBF,
            sizeof buffer); /* nothing left to allocate or to ask the kernel */
    for (int i = 0; i < 2; i++)
        start_thread(work, &workers[i]);
    while (workers[0].progress == 0 || workers[1].progress == 0)
        usleep(1000); /* threads that start make calls that are not on the strict list */
    install(argc > 1 ? argv[1] : "allow");
    return serve(report, NULL);
}

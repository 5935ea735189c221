/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vforker [MS]: a thread that is in vfork nearly all the time: it cannot be stopped before its
 * child ends (after 100 ms by default), which runs in the same memory until then.
 *
 * {"in_vfork":true,"vforks":9,"wrong_status":0,"eintr":0,"early":0,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * progress: of the threads beside it, one that works and some that wait in epoll_wait, 50 ms at a
 * time; eintr, early: of those.
 */
#define _GNU_SOURCE
#include "program.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAITERS 8
#define WAIT_MS 50

static struct worker beside[1 + WAITERS];
static int epoll_fd;
static atomic_long eintr, early;
static struct timespec lifetime = {.tv_nsec = 100000000};
static atomic_long vforks, wrong_status;
static atomic_bool in_vfork;

static void vfork_for_ever(void *argument)
{
    (void)argument;
    for (;;) {
        int status = 0;
        pid_t child;

        in_vfork = true;
        child = vfork();
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            nanosleep(&lifetime, NULL);
            _exit(5);
        }
        in_vfork = false;
        vforks++;
        waitpid(child, &status, 0);
        wrong_status += !WIFEXITED(status) || WEXITSTATUS(status) != 5;
        usleep(1000);
    }
}

static void work(void *argument)
{
    for (;;) {
        work_done(argument);
        usleep(1000);
    }
}

static void wait_for_events(void *argument)
{
    for (;;) {
        int64_t end = now_ns() + WAIT_MS * INT64_C(1000000);
        struct epoll_event event;

        if (epoll_wait(epoll_fd, &event, 1, WAIT_MS) < 0)
            eintr++;
        else if (now_ns() < end)
            early++;
        work_done(argument);
    }
}

static void report(FILE *out)
{
    fprintf(out, "\"in_vfork\":%s,\"vforks\":%ld,\"wrong_status\":%ld,",
            in_vfork ? "true" : "false", vforks, wrong_status);
    fprintf(out, "\"eintr\":%ld,\"early\":%ld,", eintr, early);
    report_workers(out, beside, 1 + WAITERS);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        long ms = atol(argv[1]);

        lifetime = (struct timespec){ms / 1000, ms % 1000 * 1000000};
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i <= WAITERS; i++) {
        beside[i].index = i;
        start_thread(i ? wait_for_events : work, &beside[i]);
    }
    start_thread(vfork_for_ever, NULL);
    return serve(report, NULL);
}

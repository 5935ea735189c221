/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sigchld: a thread that forks short-lived children all the time; a SIGCHLD handler reaps them.
 * SIGCHLDs merge, so a lost one shows as children that nobody reaps.
 *
 * {"forked":900,"reaped":900,"signals":850,"unreaped":0,"wrong_status":0,
 *  "tids":[...],"progress":[...],"answers":[...],"answer":1}
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define BURST 4

static struct worker workers[2];
static atomic_long forked, reaped, signals, unreaped, wrong_status;

static void reap(void)
{
    int status;

    while (waitpid(-1, &status, WNOHANG) > 0) {
        reaped++;
        wrong_status += !WIFEXITED(status) || WEXITSTATUS(status) != 3;
    }
}

static void on_child(int signal)
{
    int error = errno;

    (void)signal;
    signals++;
    reap();
    errno = error;
}

static void fork_burst(void)
{
    for (int i = 0; i < BURST; i++) {
        pid_t child = fork();

        require(child >= 0, "fork");
        if (child == 0)
            _exit(3);
        forked++;
    }
}

static void fork_children(void *argument)
{
    for (;;) {
        int64_t deadline = now_ns() + 2000000000;

        fork_burst();
        while (reaped < forked && now_ns() < deadline)
            usleep(200);
        if (reaped < forked) {
            unreaped += forked - reaped;
            reap();
        }
        work_done(argument);
    }
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
    fprintf(out, "\"forked\":%ld,\"reaped\":%ld,\"signals\":%ld,", forked, reaped, signals);
    fprintf(out, "\"unreaped\":%ld,\"wrong_status\":%ld,", unreaped, wrong_status);
    report_workers(out, workers, 2);
}

int main(void)
{
    struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};

    sigaction(SIGCHLD, &action, NULL);
    start_thread(work, &workers[0]);
    start_thread(fork_children, &workers[1]);
    return serve(report, NULL);
}

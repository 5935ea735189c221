// SPDX-License-Identifier: GPL-2.0-or-later
/* The master: it forks, waits for signals, and answers nobody itself. */
#define _GNU_SOURCE
#include "../common/target.h"
#include "prefork.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_WORKERS = 64, SHORT_LIFE_MS = 100 };

static struct {
    pid_t pid;
    int64_t born; /* ms */
} workers[MOST_WORKERS];

static int worker_count = 4;

static void become_worker(pid_t master, int listener)
{
    /* Not to outlive the master, even one that was killed, be it before we could ask for this. */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != master)
        _exit(0);
    sigset_t none;
    sigemptyset(&none);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_SETMASK, &none, NULL);
    work(listener);
}

static void start_worker(int i, int listener)
{
    pid_t master = getpid();
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0)
        become_worker(master, listener);
    workers[i].pid = pid;
    workers[i].born = now_ms();
}

static void restart_worker(int i, int listener)
{
    pid_t old = workers[i].pid;
    /* One that dies at once must not make us fork as fast as we can. */
    int64_t early_ms = workers[i].born + SHORT_LIFE_MS - now_ms();
    if (early_ms > 0)
        nanosleep(&(struct timespec){.tv_nsec = early_ms * 1000000}, NULL);
    start_worker(i, listener);
    say("RESTARTED old=%d new=%d", old, workers[i].pid);
}

static void replace_the_dead(int listener)
{
    for (pid_t dead; (dead = waitpid(-1, NULL, WNOHANG)) > 0;)
        for (int i = 0; i < worker_count; i++)
            if (workers[i].pid == dead)
                restart_worker(i, listener);
}

static void stop_workers(void)
{
    for (int i = 0; i < worker_count; i++)
        kill(workers[i].pid, SIGTERM);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
}

static void announce(uint16_t port)
{
    char list[MOST_WORKERS * 12];
    size_t used = 0;
    for (int i = 0; i < worker_count; i++)
        used += snprintf(list + used, sizeof(list) - used, "%s%d", i ? "," : "", workers[i].pid);
    say("READY port=%u pid=%d workers=%s", port, getpid(), list);
}

static sigset_t block_signals(void)
{
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGCHLD);
    sigaddset(&awaited, SIGTERM);
    sigaddset(&awaited, SIGINT);
    sigprocmask(SIG_BLOCK, &awaited, NULL);
    signal(SIGPIPE, SIG_IGN);
    return awaited;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"workers", required_argument, NULL, 'w'},
        {0},
    };
    uint16_t port = 0;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'p')
            port = number_option("port", optarg, 0, UINT16_MAX);
        else if (option == 'w')
            worker_count = number_option("workers", optarg, 1, MOST_WORKERS);
        else
            usage("prefork [--port N] [--workers 4]");
    }

    sigset_t awaited = block_signals();
    int listener = listen_on_loopback(&port);
    for (int i = 0; i < worker_count; i++)
        start_worker(i, listener);
    announce(port);
    for (;;) {
        int number = sigwaitinfo(&awaited, NULL);
        if (number == SIGCHLD)
            replace_the_dead(listener);
        else if (number > 0)
            break;
    }
    stop_workers();
    return 0;
}

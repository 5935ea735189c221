/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * leaderless: the main thread has ended (a zombie in /proc/PID/task until the process ends), others
 * live on.
 *
 * {"tids":[...],"progress":[...],"answers":[...],"answer":1}
 */
#include "program.h"

#include <pthread.h>
#include <unistd.h>

#define WORKERS 3

static struct worker workers[WORKERS];

static void work(void *argument)
{
    for (;;) {
        work_done(argument);
        usleep(1000);
    }
}

static void report(FILE *out)
{
    report_workers(out, workers, WORKERS);
}

/* READY is said when the main thread is gone. */
static void serve_without_leader(void *argument)
{
    pthread_join(*(pthread_t *)argument, NULL);
    serve(report, NULL);
}

int main(void)
{
    static pthread_t leader;

    leader = pthread_self();
    for (int i = 0; i < WORKERS; i++) {
        workers[i].index = i;
        start_thread(work, &workers[i]);
    }
    start_thread(serve_without_leader, &leader);
    pthread_exit(NULL);
}

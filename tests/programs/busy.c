/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * busy THREADS MODE: threads that work all the time, and count it. Somebody is always in
 * compute(), the function to be patched:
 *
 *   inside    all of them, which never leave it
 *   beside    one more thread, asleep; the others work elsewhere
 *   calling   one more thread, asleep; the others call it for each unit of work
 *
 * {"counters":ADDRESS,"stride":64,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * counters: a long of 8 bytes for each thread, to be read from outside, every `stride` bytes: how
 * many units of work it has done. (progress is the same.)
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 256
#define STEPS 1000 /* of a unit: about a microsecond */

enum mode { INSIDE, BESIDE, CALLING, ASLEEP };
static const char *const mode_names[] = {"inside", "beside", "calling"};

static struct counter {
    _Alignas(64) atomic_long units;
    volatile unsigned value;
} counters[MOST];
static struct worker workers[MOST];
static int worker_count;
static enum mode mode;
static atomic_long asleep;

int compute(int kind, struct counter *counter);

static PATCHABLE void sleep_for_ever(void)
{
    asleep = 1;
    pause();
}

#define UNIT(counter)                                                                              \
    do {                                                                                           \
        unsigned value = (counter)->value;                                                         \
                                                                                                   \
        for (int step = 0; step < STEPS; step++)                                                   \
            __asm__ volatile("imul $1664525, %0, %0" : "+r"(value));                               \
        (counter)->value = value;                                                                  \
        (counter)->units++;                                                                        \
    } while (0)

PATCHABLE int compute(int kind, struct counter *counter)
{
    if (kind == ASLEEP)
        sleep_for_ever();
    else if (kind == CALLING)
        UNIT(counter);
    else
        for (;;)
            UNIT(counter);
    __asm__ volatile(""); /* something is left to do: no tail call */
    return 1;
}

static PATCHABLE void work_elsewhere(struct counter *counter)
{
    for (;;)
        UNIT(counter);
}

static void work(void *argument)
{
    struct worker *worker = argument;
    struct counter *counter = &counters[worker->index];

    worker->tid = syscall(SYS_gettid);
    worker->answer = answer();
    for (;;) {
        if (mode == BESIDE)
            work_elsewhere(counter);
        compute(mode, counter);
    }
}

static void sleep_inside(void *argument)
{
    for (;;)
        compute(ASLEEP, argument);
}

static void report(FILE *out)
{
    for (int i = 0; i < worker_count; i++)
        workers[i].progress = counters[i].units;
    fprintf(out, "\"counters\":%lu,\"stride\":%zu,", (unsigned long)counters, sizeof *counters);
    report_workers(out, workers, worker_count);
}

int main(int argc, char **argv)
{
    worker_count = argc > 1 ? atoi(argv[1]) : 2;
    while (argc > 2 && mode < ASLEEP && strcmp(mode_names[mode], argv[2]) != 0)
        mode++;
    errno = EINVAL;
    require(worker_count >= 1 && worker_count <= MOST && mode < ASLEEP, "arguments");
    for (int i = 0; i < worker_count; i++) {
        workers[i].index = i;
        start_thread(work, &workers[i]);
    }
    if (mode != INSIDE) {
        start_thread(sleep_inside, NULL);
        while (!asleep)
            usleep(500);
    }
    return serve(report, NULL);
}

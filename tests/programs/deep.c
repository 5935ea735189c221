/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * deep THREADS DEPTH STALE INSIDE [spinning]: threads with that many frames of differing size on
 * their stacks, 16 KiB for 50 of them, that sleep at the bottom for 100 ms again and again (or spin
 * there). The first STALE of them have words in local variables that look like return addresses into
 * compute(), the function to be patched: left over from a call, as it were. INSIDE further
 * threads, as deep, sleep in compute() itself until "leave".
 *
 * {"stale":1,"inside":0,"result":1,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * result: what compute() returns now: 1, and 2 when patched. progress: of those not inside.
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_MS 100

static int worker_count, depth, stale, inside_count;
static bool spinning;
static struct worker *workers;
static atomic_long inside;
static atomic_bool released;
static int release[2]; /* a pipe: its end lets those inside go */
static void *within; /* compute() */

int compute(int wait);

static PATCHABLE void in_compute(int wait)
{
    char byte;

    within = __builtin_return_address(0);
    if (!wait)
        return;
    inside++;
    while (read(release[0], &byte, 1) < 0 && errno == EINTR)
        ;
    inside--;
}

PATCHABLE int compute(int wait)
{
    in_compute(wait);
    __asm__ volatile(""); /* something is left to do: no tail call */
    return 1;
}

static void sleep_ms(int ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};

    while (nanosleep(&left, &left) < 0)
        ;
}

static PATCHABLE void work_at_the_bottom(struct worker *worker)
{
    if (!worker) {
        compute(1);
        return;
    }
    sleep_ms(worker->index * 7 % PERIOD_MS); /* spread over the period */
    for (;;) {
        int64_t end = now_ns() + PERIOD_MS * INT64_C(1000000);

        if (spinning)
            while (now_ns() < end)
                ;
        else
            sleep_ms(PERIOD_MS);
        work_done(worker);
    }
}

static void go_down(int left, struct worker *worker);

/* Frames of so many bytes of local variables, which are in use when the call below returns. */
#define FRAME(bytes)                                                                               \
    static PATCHABLE long frame_of_##bytes(int left, struct worker *worker)                        \
    {                                                                                              \
        volatile long local[bytes / sizeof(long)];                                                 \
                                                                                                   \
        local[left % (bytes / sizeof(long))] = left;                                               \
        go_down(left - 1, worker);                                                                 \
        return local[left % (bytes / sizeof(long))];                                               \
    }

FRAME(16)
FRAME(64)
FRAME(128)
FRAME(256)
FRAME(1024)

static long (*const frames[])(int left, struct worker *worker) = {
    frame_of_16, frame_of_64, frame_of_128, frame_of_256, frame_of_1024};

static inline __attribute__((always_inline)) void go_down(int left, struct worker *worker)
{
    if (left > 0)
        frames[left % (sizeof frames / sizeof *frames)](left, worker);
    else
        work_at_the_bottom(worker);
}

static void work(void *argument)
{
    struct worker *worker = argument;
    void *volatile left_over[8] = {0};

    if (worker && worker->index < stale)
        left_over[worker->index % 8] = within;
    while (!released) /* what a thread inside lives in: its main loop */
        go_down(depth, worker);
    (void)left_over[0];
}

static void report(FILE *out)
{
    fprintf(out, "\"stale\":%d,\"inside\":%ld,\"result\":%d,", stale, inside, compute(0));
    report_workers(out, workers, worker_count);
}

static bool command(const char *line, FILE *out)
{
    if (strcmp(line, "leave") != 0)
        return false;
    released = true;
    close(release[1]);
    while (inside > 0)
        usleep(500);
    report(out);
    return true;
}

int main(int argc, char **argv)
{
    errno = EINVAL;
    require(argc > 4, "deep THREADS DEPTH STALE INSIDE [spinning]");
    worker_count = atoi(argv[1]);
    depth = atoi(argv[2]);
    stale = atoi(argv[3]);
    inside_count = atoi(argv[4]);
    spinning = argc > 5;
    require(worker_count >= 0 && depth >= 0 && stale <= worker_count, "arguments");
    workers = calloc(worker_count + 1, sizeof *workers);
    require(workers && pipe(release) == 0, "workers");
    compute(0);
    for (int i = 0; i < worker_count; i++) {
        workers[i].index = i;
        start_thread(work, &workers[i]);
    }
    for (int i = 0; i < inside_count; i++)
        start_thread(work, NULL);
    while (inside < inside_count)
        usleep(500);
    return serve(report, command);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * many [COUNT [THREADS]]: threads (2) that call the first COUNT (1,000) of a thousand functions in
 * random order, and check that all change together: each thread counts how often the version it
 * sees changes from one call to the next. A commit changes it once.
 *
 * {"old":960,"new":40,"switches":[1,1],"wrong":0,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * old, new: of the first COUNT, called now, one after the other; "versions" is the same by version.
 * wrong: results that no version has.
 */
#include "many.h"
#include "program.h"

#include <stdlib.h>
#include <unistd.h>

#define DECLARE(number) int f##number(void);
#define ENTER(number) f##number,
#define FUNCTIONS 1000
#define MAX_WORKERS 16
#define CALLS_AN_ANSWER 1000

THOUSAND(DECLARE)
static int (*const functions[])(void) = {THOUSAND(ENTER)};
_Static_assert(sizeof functions / sizeof *functions == FUNCTIONS, "a thousand");

static int count = FUNCTIONS, worker_count = 2;
static struct worker workers[MAX_WORKERS];
static atomic_long switches[MAX_WORKERS], wrong;

static int version_of(int index)
{
    int result = functions[index]();

    if (result % FUNCTIONS != index)
        wrong++;
    return result / FUNCTIONS;
}

static void call_at_random(void *argument)
{
    struct worker *worker = argument;
    unsigned seed = worker->index;
    int last = 1;

    for (;;) {
        for (int i = 0; i < CALLS_AN_ANSWER; i++) {
            int version;

            seed = seed * 1664525 + 1013904223;
            version = version_of((seed >> 8) % count);
            switches[worker->index] += version != last;
            last = version;
        }
        work_done(worker);
        usleep(100);
    }
}

static void report(FILE *out)
{
    int versions[10] = {0};

    for (int i = 0; i < count; i++)
        versions[version_of(i) % 10]++;
    fprintf(out, "\"old\":%d,\"new\":%d,\"versions\":[", versions[1], count - versions[1]);
    for (int i = 0; i < 10; i++)
        fprintf(out, "%s%d", i ? "," : "", versions[i]);
    fprintf(out, "],");
    report_longs(out, "switches", switches, worker_count);
    fprintf(out, ",\"wrong\":%ld,", wrong);
    report_workers(out, workers, worker_count);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        count = atoi(argv[1]);
    if (argc > 2)
        worker_count = atoi(argv[2]);
    require(count >= 1 && count <= FUNCTIONS && worker_count >= 1 && worker_count <= MAX_WORKERS,
            "arguments");
    for (int i = 0; i < worker_count; i++) {
        workers[i].index = i;
        start_thread(call_at_random, &workers[i]);
    }
    return serve(report, NULL);
}

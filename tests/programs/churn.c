/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * churn [SPAWNERS]: threads (2) that start threads all the time, several hundred a second each;
 * every one lives for a millisecond and calls answer().
 *
 * {"started":900,"ended":899,"wrong":0,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * progress: of the spawners, in threads joined. wrong: threads whose answer was neither 1 nor 2.
 */
#include "program.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_SPAWNERS 16

static struct worker spawners[MAX_SPAWNERS];
static int spawner_count = 2;
static atomic_long started, ended, wrong;

static void *live_briefly(void *argument)
{
    int result;

    started++;
    usleep(1000);
    result = answer();
    wrong += result != 1 && result != 2;
    ended++;
    return argument;
}

static void spawn(void *argument)
{
    for (;;) {
        pthread_t thread;

        require(pthread_create(&thread, NULL, live_briefly, NULL) == 0, "pthread_create");
        pthread_join(thread, NULL);
        work_done(argument);
    }
}

static void report(FILE *out)
{
    fprintf(out, "\"started\":%ld,\"ended\":%ld,\"wrong\":%ld,", started, ended, wrong);
    report_workers(out, spawners, spawner_count);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        spawner_count = atoi(argv[1]);
    require(spawner_count >= 1 && spawner_count <= MAX_SPAWNERS, "SPAWNERS");
    for (int i = 0; i < spawner_count; i++) {
        spawners[i].index = i;
        start_thread(spawn, &spawners[i]);
    }
    return serve(report, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state [ENTRIES [THREADS [calling]]]: a program with state of a shape: a hash table of linked
 * entries, with a total that is kept beside it. Its threads add the entries up all the time, and
 * count as broken any sum that is not the total. With "calling" they also take a lock, in which they
 * call malloc and free.
 *
 *   hold      the thread that serves commands takes the lock;  release   and lets go of it
 *   fail N    what a patch may look at to know when to fail
 *
 * {"size":24,"limit":100,"broken":0,"shared":0,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * size: of an entry.
 */
#define _GNU_SOURCE
#include "program.h"
#include "state.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOST 64

struct entry_v1 *table[BUCKETS];
long entries, total;
static volatile int limit = 100;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct worker workers[MOST];
volatile long fail_at = -1;
long *shared; /* memory that a child would share */
static int count = 4;
static bool calling;
static atomic_long broken;

PATCHABLE int entry_size(void)
{
    return sizeof(struct entry_v1);
}

PATCHABLE long sum(int bucket)
{
    long found = 0;

    for (struct entry_v1 *entry = table[bucket]; entry; entry = entry->next)
        found += entry->value;
    return found;
}

/* Calls sum as often as there are buckets: it is on the stack while only half of them are done. */
PATCHABLE long sum_all(void)
{
    long found = 0;

    for (int bucket = 0; bucket < BUCKETS; bucket++)
        found += sum(bucket);
    return found;
}

static void work(void *argument)
{
    for (;;) {
        if (sum_all() != total)
            broken++;
        if (calling) {
            pthread_mutex_lock(&lock);
            free(malloc(1000));
            pthread_mutex_unlock(&lock);
        }
        work_done(argument);
        if (!calling)
            usleep(500);
    }
}

static void fill(long wanted)
{
    for (entries = 0; entries < wanted; entries++) {
        struct entry_v1 *entry = malloc(sizeof *entry);

        require(entry != NULL, "malloc");
        entry->key = (int)entries;
        entry->value = entries * 7 + 1;
        entry->next = table[entries % BUCKETS];
        table[entries % BUCKETS] = entry;
        total += entry->value;
    }
}

static void report(FILE *out)
{
    fprintf(out, "\"size\":%d,\"limit\":%d,\"broken\":%ld,\"shared\":%ld,", entry_size(), limit,
            (long)broken, *shared);
    report_workers(out, workers, count);
}

static bool command(const char *line, FILE *out)
{
    if (!strcmp(line, "hold"))
        pthread_mutex_lock(&lock);
    else if (!strcmp(line, "release"))
        pthread_mutex_unlock(&lock);
    else if (!strncmp(line, "fail ", 5))
        fail_at = atol(line + 5);
    else
        return false;
    report(out);
    return true;
}

int main(int argc, char **argv)
{
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(shared != MAP_FAILED, "mmap");
    fill(argc > 1 ? atol(argv[1]) : 1000);
    count = argc > 2 ? atoi(argv[2]) : count;
    require(count <= MOST, "that many threads");
    calling = argc > 3 && !strcmp(argv[3], "calling");
    for (int i = 0; i < count; i++) {
        workers[i].index = i;
        start_thread(work, &workers[i]);
    }
    return serve(report, command);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mallocs [THREADS]: 8 threads that do nothing but malloc, realloc and free, and check what they
 * stored. Whoever borrows one of them is likely to find it holding malloc's locks.
 *
 * {"tids":[...],"progress":[...],"answers":[...],"answer":1,"corrupted":0}
 */
#include "program.h"

#include <stdlib.h>
#include <string.h>

#define MAX_WORKERS 64
#define BLOCKS 64
#define ROUNDS_AN_ANSWER 256

struct block {
    unsigned char *bytes;
    size_t size;
};

static struct worker workers[MAX_WORKERS];
static atomic_long corrupted;

static void check(const struct block *block, unsigned char value)
{
    if (block->bytes && (block->bytes[0] != value || block->bytes[block->size - 1] != value))
        corrupted++;
}

/* Sizes of every kind of malloc's: fast bins, tcache, large bins, sometimes a mapping of their own.
 */
static size_t random_size(unsigned *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return 1 + (*seed >> 8) % (*seed >> 28 == 0 ? 300000 : 2000);
}

static void resize(struct block *block, size_t size, unsigned char value)
{
    check(block, value);
    if (size % 2) {
        free(block->bytes);
        block->bytes = malloc(size);
    } else {
        block->bytes = realloc(block->bytes, size);
    }
    require(block->bytes != NULL, "malloc");
    block->size = size;
    block->bytes[0] = block->bytes[size - 1] = value;
}

static void allocate(void *argument)
{
    struct worker *worker = argument;
    struct block blocks[BLOCKS] = {0};
    unsigned seed = worker->index;

    for (;;) {
        for (int i = 0; i < ROUNDS_AN_ANSWER; i++)
            resize(&blocks[i % BLOCKS], random_size(&seed), worker->index + 1);
        work_done(worker);
    }
}

static int worker_count = 8;

static void report(FILE *out)
{
    report_workers(out, workers, worker_count);
    fprintf(out, ",\"corrupted\":%ld", corrupted);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        worker_count = atoi(argv[1]);
    require(worker_count >= 1 && worker_count <= MAX_WORKERS, "THREADS");
    for (int i = 0; i < worker_count; i++) {
        workers[i].index = i;
        start_thread(allocate, &workers[i]);
    }
    return serve(report, NULL);
}

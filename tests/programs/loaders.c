/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * loaders [THREADS]: 4 threads that do nothing but load a library and unload it: one of them holds
 * the dynamic linker's lock at nearly every instant, and the memory map changes all the time.
 *
 * {"loaded":812,"failed":0,"progress":[...],"answers":[...],"answer":1}
 */
#define _GNU_SOURCE
#include "program.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 16

static struct worker workers[MOST];
static atomic_long loaded, failed;
static char path[PATH_MAX];

static void load(void *argument)
{
    for (;;) {
        void *library = dlopen(path, RTLD_NOW);

        failed += library == NULL || dlsym(library, "opened_answer") == NULL;
        loaded++;
        if (library)
            dlclose(library);
        work_done(argument);
    }
}

static int count = 4;

static void report(FILE *out)
{
    fprintf(out, "\"loaded\":%ld,\"failed\":%ld,", loaded, failed);
    report_workers(out, workers, count);
}

int main(int argc, char **argv)
{
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);

    require(length > 0, "/proc/self/exe");
    strcpy(strrchr(path, '/') + 1, "libtls_opened.so");
    if (argc > 1)
        count = atoi(argv[1]);
    require(count >= 1 && count <= MOST, "THREADS");
    for (int i = 0; i < count; i++) {
        workers[i].index = i;
        start_thread(load, &workers[i]);
    }
    return serve(report, NULL);
}

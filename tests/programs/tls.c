/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tls: thread-local variables and functions of the program, of a library it is linked with
 * (libtls_linked.so), and of one it has opened with dlopen (libtls_opened.so). In thread n they are
 * n, 10 n, 100 n.
 *
 * {"linked_answer":1,"opened_answer":1,"values":[[0,0,0],[1,10,100],...],
 *  "tids":[...],"progress":[...],"answers":[...],"answer":1}
 * values: of each thread, as the thread itself sees them.
 */
#include "tls.h"
#include "program.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORKERS 4

__thread long in_program = 7;     /* initialised: from .tdata */
static __thread char zeroes[100]; /* .tbss between them */

static struct worker workers[WORKERS];
static atomic_long values[WORKERS][3];
static long *(*variable_of_opened)(void);
static int (*answer_of_opened)(void);

static void work(void *argument)
{
    struct worker *worker = argument;
    int i = worker->index;

    in_program = i;
    in_linked = 10 * i;
    *variable_of_opened() = 100 * i;
    for (;;) {
        work_done(worker);
        values[i][0] = in_program + zeroes[i];
        values[i][1] = in_linked;
        values[i][2] = *variable_of_opened();
        usleep(1000);
    }
}

static void report(FILE *out)
{
    fprintf(out, "\"linked_answer\":%d,\"opened_answer\":%d,\"values\":[", linked_answer(),
            answer_of_opened());
    for (int i = 0; i < WORKERS; i++)
        fprintf(out, "%s[%ld,%ld,%ld]", i ? "," : "", values[i][0], values[i][1], values[i][2]);
    fprintf(out, "],");
    report_workers(out, workers, WORKERS);
}

/* The one that lies beside this program. */
static void *open_library(const char *name)
{
    char path[4096];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 64);

    require(size > 0, "readlink");
    path[size] = 0;
    strcpy(strrchr(path, '/') + 1, name);
    return dlopen(path, RTLD_NOW);
}

int main(void)
{
    void *library = open_library("libtls_opened.so");

    require(library != NULL, "libtls_opened.so");
    variable_of_opened = (long *(*)(void))dlsym(library, "opened_variable");
    answer_of_opened = (int (*)(void))dlsym(library, "opened_answer");
    for (int i = 0; i < WORKERS; i++) {
        workers[i].index = i;
        start_thread(work, &workers[i]);
    }
    return serve(report, NULL);
}

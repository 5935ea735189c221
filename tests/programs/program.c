/* SPDX-License-Identifier: GPL-2.0-or-later */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void require(bool condition, const char *what)
{
    if (condition)
        return;
    perror(what);
    exit(1);
}

struct start {
    thread_body *body;
    void *argument;
};

static void *run_thread(void *argument)
{
    struct start start = *(struct start *)argument;

    free(argument);
    start.body(start.argument);
    return NULL;
}

void start_thread(thread_body *body, void *argument)
{
    struct start *start = malloc(sizeof *start);
    pthread_t thread;

    require(start != NULL, "malloc");
    *start = (struct start){body, argument};
    errno = pthread_create(&thread, NULL, run_thread, start);
    require(errno == 0, "pthread_create");
    pthread_detach(thread);
}

void work_done(struct worker *worker)
{
    if (!worker->tid)
        worker->tid = syscall(SYS_gettid);
    worker->answer = answer();
    worker->progress++;
}

void report_longs(FILE *out, const char *name, const atomic_long *values, int count)
{
    fprintf(out, "\"%s\":[", name);
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%ld", i ? "," : "", values[i]);
    fprintf(out, "]");
}

void report_workers(FILE *out, struct worker *workers, int count)
{
    fprintf(out, "\"tids\":[");
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%d", i ? "," : "", workers[i].tid);
    fprintf(out, "],\"progress\":[");
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%ld", i ? "," : "", workers[i].progress);
    fprintf(out, "],\"answers\":[");
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%d", i ? "," : "", workers[i].answer);
    fprintf(out, "],\"answer\":%d", answer());
}

static long main_eintr;

static ssize_t read_counting(char *buffer, size_t size)
{
    ssize_t got;

    while ((got = read(STDIN_FILENO, buffer, size)) < 0 && errno == EINTR)
        main_eintr++;
    return got;
}

/* One line without its newline, or false at end of file. */
static bool read_line(char *line, size_t size)
{
    static char pending[4096];
    static size_t filled;
    char *newline;

    while (!(newline = memchr(pending, '\n', filled))) {
        ssize_t got = read_counting(pending + filled, sizeof pending - filled);

        if (got <= 0)
            return false;
        filled += got;
    }
    snprintf(line, size, "%.*s", (int)(newline - pending), pending);
    filled -= newline + 1 - pending;
    memmove(pending, newline + 1, filled);
    return true;
}

static void reply(const char *line, report_function *report, command_function *command)
{
    printf("{\"pid\":%d,\"main_eintr\":%ld,", getpid(), main_eintr);
    if (strcmp(line, "ask") == 0)
        report(stdout);
    else if (!command || !command(line, stdout))
        printf("\"error\":\"unknown command\"");
    printf("}\n");
    fflush(stdout);
}

int serve(report_function *report, command_function *command)
{
    char line[256];

    printf("READY pid=%d\n", getpid());
    fflush(stdout);
    while (read_line(line, sizeof line) && strcmp(line, "quit") != 0)
        reply(line, report, command);
    _exit(0); /* not exit(): the workers go on to the end */
}

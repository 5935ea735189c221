/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every test program shares: a ready handshake, a line protocol on stdin, workers with
 * progress counters, and the patchable function answer().
 *
 *   READY pid=4711          the first line on stdout
 *   ask                     one line of JSON on stdout
 *   quit (or end of file)   the program ends with status 0
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* A function whose callers know nothing of its body, as if it were in another file. */
#ifdef __clang__
#define PATCHABLE __attribute__((noinline))
#else
#define PATCHABLE __attribute__((noipa))
#endif

/* 1 as built; its patches answer 2, 3, ...  In a file of its own so that no caller knows its body.
 */
int answer(void);

struct worker {
    int index;
    atomic_int tid; /* from its first round on */
    atomic_long progress;
    atomic_int answer; /* what answer() said last */
};

/* Nanoseconds of CLOCK_MONOTONIC. */
int64_t now_ns(void);

/* End the program with a message unless the condition holds: for set-up, not for what is judged. */
void require(bool condition, const char *what);

/* Start a detached thread (glibc's default stack). */
typedef void thread_body(void *argument);
void start_thread(thread_body *body, void *argument);

/* Count one round of a worker and note what answer() says now. */
void work_done(struct worker *worker);

/* "progress":[...],"answers":[...],"answer":n  of these workers; the last one asked by the caller.
 */
void report_workers(FILE *out, struct worker *workers, int count);

/* Print a JSON array of longs under a name. */
void report_longs(FILE *out, const char *name, const atomic_long *values, int count);

/* Writes the fields of the JSON object, without braces. */
typedef void report_function(FILE *out);

/* Carries out any other line; writes the fields of the JSON object; false: unknown command. */
typedef bool command_function(const char *line, FILE *out);

/*
 * Say READY and serve stdin until "quit".  The main thread sleeps in read(2) on stdin and counts
 * the EINTRs it sees there; every reply has "pid" and "main_eintr".
 */
int serve(report_function *report, command_function *command);

#endif

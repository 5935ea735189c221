/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * simple: one thread that calls answer() and static functions, in every kind of executable: simple,
 * simple-nopie, simple-static, simple-static-pie, simple-musl, simple-musl-static, simple-debuglink
 * (stripped, with its debug file beside it), simple-dynsym (stripped, its functions only in
 * .dynsym).
 *
 * {"whisper":1,"loudness":7,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 */
#define _GNU_SOURCE
#include "program.h"

#include <unistd.h>

static struct worker worker;
static volatile int loudness = 7;

/* Static, with a static variable: only .symtab knows them. */
PATCHABLE static int whisper(void)
{
    return loudness / 7;
}

static void work(void *argument)
{
    for (;;) {
        work_done(argument);
        usleep(1000);
    }
}

static void report(FILE *out)
{
    fprintf(out, "\"whisper\":%d,\"loudness\":%d,", whisper(), loudness);
    report_workers(out, &worker, 1);
}

int main(void)
{
    start_thread(work, &worker);
    return serve(report, NULL);
}

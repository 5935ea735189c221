/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * entry: functions with odd entries (entries.S), called by a thread all the time and on demand.
 *
 * {"results":{"page_end_1":1, ...},"patched":{"page_end_1":2, ...},
 *  "tids":[...],"progress":[...],"answers":[...],"answer":1}
 * results: what each returns now, 1 as built; patched: what it returns when entry_NAME.so is
 * applied, which calls the original and adds 1.
 */
#include "entries.h"
#include "program.h"

#include <unistd.h>

#define DECLARE(name, argument, patched) long name(long a, long b, long c, long d);
#define CALL(name, argument, patched) name(argument, 0, 0, 0);
#define PRINT_RESULT(name, argument, patched)                                                      \
    fprintf(out, "%s\"%s\":%ld", separator, #name, name(argument, 0, 0, 0)), separator = ",";
#define PRINT_PATCHED(name, argument, patched)                                                     \
    fprintf(out, "%s\"%s\":%d", separator, #name, patched), separator = ",";

ENTRIES(DECLARE)

static struct worker worker;

static void work(void *argument)
{
    for (;;) {
        ENTRIES(CALL)
        work_done(argument);
        usleep(500);
    }
}

static void report(FILE *out)
{
    const char *separator = "\"results\":{";

    ENTRIES(PRINT_RESULT)
    separator = "},\"patched\":{";
    ENTRIES(PRINT_PATCHED)
    fprintf(out, "},");
    report_workers(out, &worker, 1);
}

int main(void)
{
    start_thread(work, &worker);
    return serve(report, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * forker: children inherit patched code. "fork" asks a child forked now; "grandchild" a child of
 * such a child; "spawn N" makes N children that live on (as long as this process) and answer to
 * "children".
 *
 * {"progress":[...],"answers":[...],"answer":1}
 * fork, grandchild: {"child_answer":1}; spawn, children: {"children":[{"pid":5,"answer":1}, ...]}
 */
#include "program.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_CHILDREN 16

static struct worker worker;
static struct child {
    pid_t pid;
    int ask[2], reply[2];
} children[MAX_CHILDREN];
static int child_count;

/* What answer() says in a process so many forks away. */
static int ask_descendant(int generations)
{
    int status = 0;
    pid_t child;

    if (generations == 0)
        return answer();
    child = fork();
    require(child >= 0, "fork");
    if (child == 0)
        _exit(ask_descendant(generations - 1));
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void serve_as_child(struct child *child)
{
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(child->ask[0], &byte, 1) == 1) {
        int now = answer();

        require(write(child->reply[1], &now, sizeof now) == sizeof now, "write");
    }
    _exit(0);
}

static void spawn(int count)
{
    for (; count > 0 && child_count < MAX_CHILDREN; count--) {
        struct child *child = &children[child_count++];

        require(pipe(child->ask) == 0 && pipe(child->reply) == 0, "pipe");
        child->pid = fork();
        require(child->pid >= 0, "fork");
        if (child->pid == 0)
            serve_as_child(child);
    }
}

static int ask_child(struct child *child)
{
    int now = -1;

    require(write(child->ask[1], "x", 1) == 1, "write");
    require(read(child->reply[0], &now, sizeof now) == sizeof now, "read");
    return now;
}

static void report_children(FILE *out)
{
    fprintf(out, "\"children\":[");
    for (int i = 0; i < child_count; i++)
        fprintf(out, "%s{\"pid\":%d,\"answer\":%d}", i ? "," : "", children[i].pid,
                ask_child(&children[i]));
    fprintf(out, "]");
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
    report_workers(out, &worker, 1);
}

static bool command(const char *line, FILE *out)
{
    if (strcmp(line, "fork") == 0) {
        fprintf(out, "\"child_answer\":%d", ask_descendant(1));
    } else if (strcmp(line, "grandchild") == 0) {
        fprintf(out, "\"child_answer\":%d", ask_descendant(2));
    } else if (strncmp(line, "spawn ", 6) == 0) {
        spawn(atoi(line + 6));
        report_children(out);
    } else if (strcmp(line, "children") == 0) {
        report_children(out);
    } else {
        return false;
    }
    return true;
}

int main(void)
{
    start_thread(work, &worker);
    return serve(report, command);
}

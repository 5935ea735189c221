/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * parent PROGRAM [ARGUMENT ...]: starts another test program and sees what a parent can see of it:
 * every SIGCHLD and every change that waitid reports. A stop that is invisible changes none of the
 * counts.
 *
 * {"child":4712,"sigchld":0,"stopped":0,"continued":0,"ended":0}
 * "child LINE" sends LINE to the child: "child ask" asks it.
 * {..., "reply":{...}}
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child;
static FILE *to_child, *from_child;
static atomic_long sigchld, stopped, continued, ended;

static void on_child(int signal)
{
    (void)signal;
    sigchld++;
}

static void watch(void *argument)
{
    (void)argument;
    while (!ended) {
        siginfo_t info;

        if (waitid(P_PID, child, &info, WEXITED | WSTOPPED | WCONTINUED) < 0) {
            require(errno == EINTR, "waitid");
            continue;
        }
        stopped += info.si_code == CLD_STOPPED || info.si_code == CLD_TRAPPED;
        continued += info.si_code == CLD_CONTINUED;
        ended +=
            info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED;
    }
}

static void start_child(char **arguments)
{
    int to[2], from[2];

    require(pipe2(to, 0) == 0 && pipe2(from, 0) == 0, "pipe");
    child = fork();
    require(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        close_range(3, ~0U, 0);
        execv(arguments[0], arguments);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    to_child = fdopen(to[1], "w");
    from_child = fdopen(from[0], "r");
}

static char *read_from_child(void)
{
    static char *line;
    static size_t size;

    require(getline(&line, &size, from_child) > 0, "the child says nothing");
    line[strcspn(line, "\n")] = 0;
    return line;
}

static void report(FILE *out)
{
    fprintf(out, "\"child\":%d,\"sigchld\":%ld,\"stopped\":%ld,\"continued\":%ld,\"ended\":%ld",
            child, sigchld, stopped, continued, ended);
}

static bool command(const char *line, FILE *out)
{
    static const char prefix[] = "child ";

    if (strncmp(line, prefix, strlen(prefix)) != 0)
        return false;
    fprintf(to_child, "%s\n", line + strlen(prefix));
    fflush(to_child);
    report(out);
    fprintf(out, ",\"reply\":%s", read_from_child());
    return true;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART};

    require(argc > 1, "PROGRAM");
    sigaction(SIGCHLD, &action, NULL);
    start_child(argv + 1);
    require(strncmp(read_from_child(), "READY", 5) == 0, "the child is not ready");
    start_thread(watch, NULL);
    return serve(report, command);
}

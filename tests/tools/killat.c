/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * killat [--exit] [--from CALL] N [--] COMMAND [ARGUMENT ...]
 *
 * Runs COMMAND and kills it with SIGKILL at the N-th system call of all its threads and children
 * together: at its entry, so that it is never carried out, or with --exit when it is done. N = 0
 * only counts. --from CALL: the first of that name is number 1, those before it don't count.
 *
 * On stderr, as the last line:
 *   {"calls": 17, "killed_at": "write", "status": 137}
 * calls: system calls entered; killed_at: null if the command ended before; status: as a shell's
 * $?, also the exit status of killat. When it returns, the command and all its threads are gone,
 * and so whatever the command traced itself has been detached. Children that the command leaves are
 * killed.
 *
 * Signals to the command are passed on as they are; it is seized, so that a stop is a stop.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ptrace.h> /* struct ptrace_syscall_info; after sys/ptrace.h */

static const char *const call_names[] = {
#include "syscall_names.h" /* [0] = "read", ...: made from asm/unistd_64.h */
};
#define CALL_NAMES (int)(sizeof call_names / sizeof *call_names)
#define EXEC_FAILED 127

struct plan {
    long kill_at; /* 0: never */
    bool at_exit;
    int from; /* number of the call that starts the count, or -1 */
};

struct run {
    pid_t command;
    bool started;  /* it has called exec */
    bool counting; /* the call that starts the count has come */
    long calls;
    pid_t last_thread; /* with --exit: the one to be killed at the exit of its call, */
    int last_call;     /* this one */
    int killed_at;     /* number of the call, or -1 */
};

static void die(const char *what)
{
    perror(what);
    exit(2);
}

#define OPTIONS                                                                                    \
    (PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE |        \
     PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK)

/* Seize a process that is not stopped, and let it go on to its next system call. */
static void seize(pid_t child)
{
    int status;

    if (ptrace(PTRACE_SEIZE, child, 0, OPTIONS) < 0 || ptrace(PTRACE_INTERRUPT, child, 0, 0) < 0)
        die("PTRACE_SEIZE");
    if (waitpid(child, &status, __WALL) < 0 || ptrace(PTRACE_SYSCALL, child, 0, 0) < 0)
        die("PTRACE_SYSCALL");
}

/* The command's process waits with its exec until it is seized. */
static pid_t start(char **arguments)
{
    int seized[2];
    pid_t child;
    char byte;

    if (pipe2(seized, O_CLOEXEC) < 0 || (child = fork()) < 0)
        die("killat");
    if (child == 0) {
        if (read(seized[0], &byte, 1) != 1)
            _exit(EXEC_FAILED);
        execvp(arguments[0], arguments);
        perror(arguments[0]);
        _exit(EXEC_FAILED);
    }
    seize(child);
    if (write(seized[1], "x", 1) != 1)
        die("write");
    close(seized[0]);
    close(seized[1]);
    return child;
}

static void kill_now(struct run *run, pid_t thread, int call)
{
    run->killed_at = call;
    kill(run->command, SIGKILL);
    kill(thread, SIGKILL); /* where it is a child of the command */
}

/* Returns whether the thread is to go on. */
static bool at_entry(const struct plan *plan, struct run *run, pid_t thread, int call)
{
    if (run->started && call == plan->from)
        run->counting = true;
    if (!run->started || !run->counting)
        return true;
    if (++run->calls != plan->kill_at)
        return true;
    if (plan->at_exit) {
        run->last_thread = thread;
        run->last_call = call;
        return true;
    }
    kill_now(run, thread, call);
    return false;
}

static bool at_exit_of_call(struct run *run, pid_t thread)
{
    if (thread != run->last_thread || run->killed_at >= 0)
        return true;
    kill_now(run, thread, run->last_call);
    return false;
}

static bool at_call(const struct plan *plan, struct run *run, pid_t thread)
{
    struct ptrace_syscall_info info;

    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) < 0)
        return true; /* killed meanwhile */
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
        return at_entry(plan, run, thread, info.entry.nr);
    return at_exit_of_call(run, thread);
}

static bool is_stop_signal(int signal)
{
    return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/* Deal with a stop and let the thread go on as it would have without us. */
static void handle_stop(const struct plan *plan, struct run *run, pid_t thread, int status)
{
    int signal = WSTOPSIG(status), event = status >> 16;

    if (signal == (SIGTRAP | 0x80)) {
        if (at_call(plan, run, thread))
            ptrace(PTRACE_SYSCALL, thread, 0, 0);
        return;
    }
    if (event == PTRACE_EVENT_EXEC && thread == run->command)
        run->started = true;
    if (event == PTRACE_EVENT_STOP && is_stop_signal(signal))
        ptrace(PTRACE_LISTEN, thread, 0, 0);
    else
        ptrace(PTRACE_SYSCALL, thread, 0, event ? 0 : signal);
}

/* Until the command is reaped, which is after all its threads. Its status as a shell's. */
static int follow(const struct plan *plan, struct run *run)
{
    for (;;) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);

        if (thread < 0 && errno != EINTR)
            die("waitpid");
        if (thread > 0 && WIFSTOPPED(status))
            handle_stop(plan, run, thread, status);
        else if (thread == run->command)
            return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}

static void report(const struct run *run, int status)
{
    fprintf(stderr, "{\"calls\": %ld, \"killed_at\": ", run->calls);
    if (run->killed_at < 0)
        fprintf(stderr, "null");
    else if (run->killed_at < CALL_NAMES && call_names[run->killed_at])
        fprintf(stderr, "\"%s\"", call_names[run->killed_at]);
    else
        fprintf(stderr, "\"%d\"", run->killed_at);
    fprintf(stderr, ", \"status\": %d}\n", status);
}

static int call_number(const char *name)
{
    for (int i = 0; i < CALL_NAMES; i++)
        if (call_names[i] && strcmp(call_names[i], name) == 0)
            return i;
    fprintf(stderr, "killat: no system call %s\n", name);
    exit(2);
}

static void usage(void)
{
    fprintf(stderr, "usage: killat [--exit] [--from CALL] N [--] COMMAND [ARGUMENT ...]\n");
    exit(2);
}

static struct plan read_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"exit", no_argument, NULL, 'e'}, {"from", required_argument, NULL, 'f'}, {0}};
    struct plan plan = {.from = -1};
    char *end;
    int option;

    while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        if (option == 'e')
            plan.at_exit = true;
        else if (option == 'f')
            plan.from = call_number(optarg);
        else
            usage();
    }
    if (optind >= argc)
        usage();
    plan.kill_at = strtol(argv[optind++], &end, 10);
    if (*end || plan.kill_at < 0)
        usage();
    if (optind < argc && strcmp(argv[optind], "--") == 0)
        optind++;
    if (optind >= argc)
        usage();
    return plan;
}

int main(int argc, char **argv)
{
    struct plan plan = read_options(argc, argv);
    struct run run = {.killed_at = -1, .counting = plan.from < 0};
    int status;

    run.command = start(argv + optind);
    status = follow(&plan, &run);
    report(&run, status);
    return status;
}

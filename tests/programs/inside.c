/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * inside MODE: a thread that is inside compute(), the function to be patched, for as long as the
 * test wants.
 *
 *   asleep      reading from a pipe              spinning    in a loop
 *   recursive   reading, ten calls deep          busy        three threads, 5 ms each, overlapping
 *   signal      in a signal handler above it     altstack    that handler on an alternate stack
 *   coroutine   suspended: compute() is on a stack that no thread runs on
 *   handler     compute() is the signal handler's callee, the handler is asleep in it
 *   endless     in serve_forever(), which never returns, and never calls compute()
 *   entry       in sleep_in_entry(), whose first instruction is the system call it sleeps in
 *
 * "enter" sends the thread in and replies when it is there, or has returned already, as it does
 * when patched: then there is nothing to leave. "leave" lets it out and replies when it has returned (endless, entry and busy are in at once; only entry and busy can be left).
 *
 * {"inside":1,"entered":1,"returned":0,"result":0,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * result: of the last compute() that returned: 1, and 2 when patched. progress: of a thread that is
 * never inside.
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum mode {
    ASLEEP,
    SPINNING,
    RECURSIVE,
    BUSY,
    SIGNAL,
    ALTSTACK,
    COROUTINE,
    HANDLER,
    ENDLESS,
    ENTRY
};
static const char *const mode_names[] = {"asleep",   "spinning",  "recursive", "busy",    "signal",
                                         "altstack", "coroutine", "handler",   "endless", "entry"};
#define MODES (int)(sizeof mode_names / sizeof *mode_names)

#define DEPTH 10

static enum mode mode;
static int go[2], release[2]; /* pipes: a byte lets the thread enter, or leave */
static atomic_bool released;
static atomic_long inside, entered, returned, result;
static struct worker outside;
static ucontext_t worker_context, coroutine_context;

int compute(int depth);
void serve_forever(void);

static void read_byte(int fd)
{
    char byte;

    while (read(fd, &byte, 1) < 0 && errno == EINTR)
        ;
}

static void on_signal(int signal)
{
    (void)signal;
    if (mode == HANDLER)
        result = compute(0);
    else
        read_byte(release[0]);
}

static void stay(void)
{
    inside++;
    if (mode == SPINNING)
        while (!released)
            ;
    else if (mode == BUSY)
        usleep(5000);
    else if (mode == SIGNAL || mode == ALTSTACK)
        raise(SIGUSR1);
    else if (mode == COROUTINE)
        swapcontext(&coroutine_context, &worker_context);
    else
        read_byte(release[0]);
    inside--;
}

PATCHABLE int compute(int depth)
{
    int below = 1;

    if (depth > 0)
        below = compute(depth - 1);
    else
        stay();
    __asm__ volatile(""); /* something is left to do: no tail call */
    return below;
}

PATCHABLE void serve_forever(void)
{
    for (;;) {
        inside = 1;
        usleep(2000);
    }
}

/* The thread sleeps with its program counter two bytes behind the entry: within a jump written
 * there. */
__asm__(".text\n"
        ".type sleep_in_entry, @function\n"
        ".globl sleep_in_entry\n"
        "sleep_in_entry:\n"
        "syscall\n" /* eax is set by the caller */
        "mov $1, %eax\n"
        "ret\n"
        ".size sleep_in_entry, . - sleep_in_entry\n");

static void call_sleep_in_entry(void)
{
    static const struct timespec interval = {.tv_nsec = 20000000};
    long value = 35; /* nanosleep */

    __asm__ volatile("call sleep_in_entry"
                     : "+a"(value)
                     : "D"(&interval), "S"(0L)
                     : "rcx", "r11", "memory");
    result = value;
}

static void run_coroutine(void)
{
    result = compute(0);
}

static void enter_coroutine(void)
{
    static char stack[65536];

    getcontext(&coroutine_context);
    coroutine_context.uc_stack.ss_sp = stack;
    coroutine_context.uc_stack.ss_size = sizeof stack;
    coroutine_context.uc_link = &worker_context;
    makecontext(&coroutine_context, run_coroutine, 0);
    swapcontext(&worker_context, &coroutine_context); /* until compute() suspends itself */
    read_byte(release[0]);
    swapcontext(&worker_context, &coroutine_context); /* until it has returned */
}

static void enter_once(void)
{
    if (mode == COROUTINE)
        enter_coroutine();
    else if (mode == HANDLER)
        raise(SIGUSR1);
    else if (mode == ENTRY)
        call_sleep_in_entry();
    else if (mode == ENDLESS)
        serve_forever();
    else
        result = compute(mode == RECURSIVE ? DEPTH : 0);
}

static bool enters_at_once(void)
{
    return mode == BUSY || mode == ENTRY || mode == ENDLESS;
}

static void go_in(void *argument)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};

    (void)argument;
    if (mode == ALTSTACK)
        require(sigaltstack(&alternate, NULL) == 0, "sigaltstack");
    for (;;) {
        if (!enters_at_once())
            read_byte(go[0]);
        while (enters_at_once() && released)
            usleep(1000);
        entered++;
        enter_once();
        returned++;
    }
}

static void stay_outside(void *argument)
{
    for (;;) {
        work_done(argument);
        usleep(1000);
    }
}

static void wait_until(bool (*condition)(void))
{
    int64_t deadline = now_ns() + 5000000000;

    while (!condition() && now_ns() < deadline)
        usleep(500);
    require(condition(), "the thread did not get there");
}

static long entered_before;

/* In it, or through: a patched compute() returns at once. */
static bool has_entered(void)
{
    return entered > entered_before && (inside > 0 || returned == entered);
}

static bool all_returned(void)
{
    return returned == entered;
}

static void report(FILE *out)
{
    fprintf(out, "\"inside\":%ld,\"entered\":%ld,\"returned\":%ld,\"result\":%ld,", inside, entered,
            returned, result);
    report_workers(out, &outside, 1);
}

static void enter(void)
{
    if (enters_at_once()) {
        released = false;
        return;
    }
    entered_before = entered;
    require(write(go[1], "x", 1) == 1, "write");
    wait_until(has_entered);
}

static void leave(void)
{
    released = true;
    if (!enters_at_once())
        require(write(release[1], "x", 1) == 1, "write");
    wait_until(all_returned);
    released = enters_at_once();
}

static bool command(const char *line, FILE *out)
{
    if (strcmp(line, "enter") == 0)
        enter();
    else if (strcmp(line, "leave") == 0)
        leave();
    else
        return false;
    report(out);
    return true;
}

static void choose_mode(const char *name)
{
    while (mode < MODES && strcmp(mode_names[mode], name) != 0)
        mode++;
    errno = EINVAL;
    require(mode < MODES, name);
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};

    choose_mode(argc > 1 ? argv[1] : "asleep");
    action.sa_flags = SA_RESTART | (mode == ALTSTACK ? SA_ONSTACK : 0);
    sigaction(SIGUSR1, &action, NULL);
    require(pipe(go) == 0 && pipe(release) == 0, "pipe");
    start_thread(stay_outside, &outside);
    for (int i = 0; i < (mode == BUSY ? 3 : 1); i++) {
        start_thread(go_in, NULL);
        usleep(1700); /* so that busy threads overlap */
    }
    return serve(report, command);
}

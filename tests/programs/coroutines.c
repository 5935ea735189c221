/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * coroutines SWITCH STACKS COUNT: a thread with COUNT coroutines, each of which can be left suspended
 * inside compute(), the function to be patched.
 *
 *   SWITCH   ucontext    makecontext, swapcontext
 *            assembly    written by hand: registers pushed, rsp kept in an object on the heap
 *            setjmp      begun in a signal handler on an alternate stack, then setjmp and longjmp
 *   STACKS   static      an array
 *            heap        malloc'ed, next to each other
 *            mapped      mapped, each with a guard page
 *            local       an array in a frame of the thread
 *
 * "suspend" runs every coroutine until it is suspended inside compute(); "step" resumes every one
 * until it has left compute(), and is suspended outside of it; "finish" until it has returned. A
 * coroutine that has finished begins anew with the next "suspend", and its stack stays as it is.
 * "sleep" resumes the first until it has left compute() and sleeps, so that the thread is on its
 * stack; "wake" until it is suspended outside. Any line is replied to when that is done.
 *
 * {"suspended":1,"returned":0,"result":0,"progress":[...],"answers":[...],"answer":1}
 * suspended: how many are inside compute(). returned: how often it returned, with the sum of its
 * results. progress: of a thread that has no coroutines.
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define MOST 1000
#define STACK_SIZE 32768
#define ASLEEP -1

struct coroutine {
    void *rsp; /* assembly */
    jmp_buf jump;
    ucontext_t context;
    char *stack;
    enum { NEW, INSIDE, OUTSIDE, FINISHED } state;
    int goal; /* until when it is to run, or ASLEEP */
};

static enum { UCONTEXT, ASSEMBLY, SETJMP } how;
static struct coroutine *coroutines[MOST], *current;
static struct coroutine worker; /* whom they go back to */
static int count = 1;
static const char *stacks;
static int orders[2], done[2], wake[2]; /* pipes */
static atomic_long suspended, returned, result;
static struct worker outside;

int compute(int depth);

/* Save the callee-saved registers and rsp in *from, go on with those of `to`. */
void switch_by_hand(void **from, void *to);
__asm__(".text\n"
        ".type switch_by_hand, @function\n"
        ".globl switch_by_hand\n"
        "switch_by_hand:\n"
        "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n"
        "mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
        "ret\n"
        ".size switch_by_hand, . - switch_by_hand\n");

static void go(struct coroutine *from, struct coroutine *to)
{
    if (how == UCONTEXT)
        swapcontext(&from->context, &to->context);
    else if (how == ASSEMBLY)
        switch_by_hand(&from->rsp, to->rsp);
    else if (setjmp(from->jump) == 0)
        longjmp(to->jump, 1);
    __asm__ volatile(""); /* no tail call */
}

/* Go back to the worker, until that resumes us. */
static void suspend(int state)
{
    struct coroutine *me = current;

    me->state = state;
    if (me->goal == state)
        go(me, &worker);
    __asm__ volatile("");
}

static void stay(void)
{
    suspended++;
    suspend(INSIDE);
    suspended--;
}

PATCHABLE int compute(int depth)
{
    volatile int below = 1;

    if (depth > 0)
        below = compute(depth - 1);
    else
        stay();
    __asm__ volatile(""); /* something is left to do: no tail call */
    return below;
}

static void read_byte(int fd)
{
    char byte;

    while (read(fd, &byte, 1) < 0 && errno == EINTR)
        ;
}

static void work(void)
{
    result += compute(2);
    returned++;
    if (current->goal == ASLEEP) {
        require(write(done[1], "x", 1) == 1, "write");
        read_byte(wake[0]);
        current->goal = OUTSIDE;
    }
    suspend(OUTSIDE);
}

static void body(void)
{
    work();
    current->state = FINISHED;
    if (how != UCONTEXT)
        go(current, &worker);
}

/* The first function of those that are switched to by hand: nobody has called it. */
static void body_by_hand(void)
{
    body();
    abort();
}

static void on_signal(int signal)
{
    struct coroutine *me = current;

    (void)signal;
    if (setjmp(me->jump) == 0)
        return; /* the handler returns, its frame is used again: nobody else is on this stack */
    body();
    abort();
}

static void begin_in_handler(struct coroutine *coroutine)
{
    stack_t stack = {.ss_sp = coroutine->stack, .ss_size = STACK_SIZE}, before;

    current = coroutine;
    require(sigaltstack(&stack, &before) == 0, "sigaltstack");
    raise(SIGUSR1);
    require(sigaltstack(&before, NULL) == 0, "sigaltstack");
}

static void begin(struct coroutine *coroutine)
{
    void **top = (void **)(coroutine->stack + STACK_SIZE);

    if (how == SETJMP) {
        begin_in_handler(coroutine);
    } else if (how == ASSEMBLY) {
        *--top = NULL; /* where the first function would return to */
        *--top = (void *)body_by_hand;
        top -= 6;
        memset(top, 0, 6 * sizeof *top);
        coroutine->rsp = top;
    } else {
        getcontext(&coroutine->context);
        coroutine->context.uc_stack.ss_sp = coroutine->stack;
        coroutine->context.uc_stack.ss_size = STACK_SIZE;
        coroutine->context.uc_link = &worker.context;
        makecontext(&coroutine->context, body, 0);
    }
}

static void run(struct coroutine *coroutine, int goal)
{
    if (coroutine->state == FINISHED || coroutine->state == NEW) {
        if (goal != INSIDE)
            return;
        begin(coroutine);
    }
    coroutine->goal = goal;
    current = coroutine;
    go(&worker, coroutine);
}

static char *new_stack(void)
{
    char *stack;

    if (strcmp(stacks, "mapped") != 0)
        return malloc(STACK_SIZE);
    stack = mmap(NULL, STACK_SIZE + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(stack != MAP_FAILED && mprotect(stack, 4096, PROT_NONE) == 0, "mmap");
    return stack + 4096;
}

static void serve_orders(char *array)
{
    char order;

    for (int i = 0; i < count; i++) {
        coroutines[i] = calloc(1, sizeof *coroutines[i]);
        coroutines[i]->stack = array && i == 0 ? array : new_stack();
    }
    while (read(orders[0], &order, 1) > 0 || errno == EINTR) {
        if (order == 'a')
            run(coroutines[0], ASLEEP);
        for (int i = 0; i < count && order != 'a'; i++)
            run(coroutines[i], order == 's' ? INSIDE : order == 'o' ? OUTSIDE : FINISHED);
        require(write(done[1], "x", 1) == 1, "write");
    }
}

static void run_coroutines(void *argument)
{
    static char array[STACK_SIZE] __attribute__((aligned(16)));
    char local[STACK_SIZE] __attribute__((aligned(16)));

    (void)argument;
    if (strcmp(stacks, "local") == 0)
        serve_orders(local);
    else
        serve_orders(strcmp(stacks, "static") == 0 ? array : NULL);
    __asm__ volatile("" : : "r"(local) : "memory");
}

static void stay_outside(void *argument)
{
    for (;;) {
        work_done(argument);
        usleep(1000);
    }
}

static void report(FILE *out)
{
    fprintf(out, "\"suspended\":%ld,\"returned\":%ld,\"result\":%ld,", suspended, returned, result);
    report_workers(out, &outside, 1);
}

static bool command(const char *line, FILE *out)
{
    static const char *const names[] = {"suspend", "step", "finish", "sleep", "wake"};
    static const char letters[] = "sofaw";

    for (int i = 0; i < 5; i++) {
        if (strcmp(line, names[i]) == 0) {
            int pipe_end = letters[i] == 'w' ? wake[1] : orders[1];

            require(write(pipe_end, &letters[i], 1) == 1, "write");
            read_byte(done[0]);
            report(out);
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    const char *name = argc > 1 ? argv[1] : "ucontext";

    how = strcmp(name, "setjmp") == 0 ? SETJMP : strcmp(name, "assembly") == 0 ? ASSEMBLY : UCONTEXT;
    stacks = argc > 2 ? argv[2] : "static";
    count = argc > 3 ? atoi(argv[3]) : 1;
    sigaction(SIGUSR1, &action, NULL);
    require(count <= MOST && pipe(orders) == 0 && pipe(done) == 0 && pipe(wake) == 0, "pipe");
    start_thread(stay_outside, &outside);
    start_thread(run_coroutines, NULL);
    return serve(report, command);
}

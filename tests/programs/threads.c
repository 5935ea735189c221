/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threads N [PERIOD_MS [CALL ...]]: N threads that sleep nearly all the time, for about PERIOD_MS
 * (100), in nanosleep, poll, futex and epoll_wait by turns (or in those named), each with 16 KiB of
 * stack in use. Early and interrupted sleeps are counted.
 *
 * {"tids":[...],"progress":[...],"answers":[...],"answer":1,"eintr":0,"early":0,"stale":0}
 * stale: threads whose last answer differs from what answer() says now.
 */
#define _GNU_SOURCE
#include "program.h"

#include <alloca.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STACK_IN_USE 16384

static int worker_count, period_ms = 100;
static struct worker *workers;
static atomic_long eintr, early;
static int epoll_fd;

/* Each: 0 when the time was over, else errno. */

static int sleep_in_nanosleep(int ms)
{
    struct timespec timeout = {ms / 1000, ms % 1000 * 1000000L};

    return nanosleep(&timeout, NULL) ? errno : 0;
}

static int sleep_in_poll(int ms)
{
    return poll(NULL, 0, ms) ? errno : 0;
}

static int sleep_in_futex(int ms)
{
    struct timespec timeout = {ms / 1000, ms % 1000 * 1000000L};
    int word = 0;

    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &timeout, NULL, 0);
    return errno == ETIMEDOUT ? 0 : errno;
}

static int sleep_in_epoll_wait(int ms)
{
    struct epoll_event event;

    return epoll_wait(epoll_fd, &event, 1, ms) ? errno : 0;
}

static const struct call {
    const char *name;
    int (*sleep)(int ms);
} calls[] = {
    {"nanosleep", sleep_in_nanosleep},
    {"poll", sleep_in_poll},
    {"futex", sleep_in_futex},
    {"epoll_wait", sleep_in_epoll_wait},
};
#define CALLS (int)(sizeof calls / sizeof *calls)

static const struct call *mix[16];
static int mix_count;

static void sleep_and_answer(struct worker *worker, const struct call *call)
{
    int64_t end = now_ns() + period_ms * INT64_C(1000000);
    int error = call->sleep(period_ms);

    if (error)
        eintr++;
    else if (now_ns() < end)
        early++;
    work_done(worker);
}

static void work(void *argument)
{
    struct worker *worker = argument;
    char *stack = alloca(STACK_IN_USE);

    memset(stack, worker->index, STACK_IN_USE);
    __asm__ volatile("" ::"r"(stack) : "memory");
    sleep_in_nanosleep(worker->index * 7 % period_ms); /* spread over the period */
    for (;;)
        sleep_and_answer(worker, mix[worker->index % mix_count]);
}

static void report(FILE *out)
{
    int stale = 0, now;

    report_workers(out, workers, worker_count);
    now = answer();
    for (int i = 0; i < worker_count; i++)
        stale += workers[i].answer != now;
    fprintf(out, ",\"eintr\":%ld,\"early\":%ld,\"stale\":%d", eintr, early, stale);
}

static void add_call(const char *name)
{
    for (int i = 0; i < CALLS; i++)
        if ((!name || strcmp(name, calls[i].name) == 0) && mix_count < 16)
            mix[mix_count++] = &calls[i];
}

int main(int argc, char **argv)
{
    worker_count = argc > 1 ? atoi(argv[1]) : 10;
    if (argc > 2)
        period_ms = atoi(argv[2]);
    for (int i = 3; i < argc; i++)
        add_call(argv[i]);
    if (argc <= 3)
        add_call(NULL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    workers = calloc(worker_count + 1, sizeof *workers);
    require(worker_count >= 0 && period_ms > 0 && mix_count > 0 && workers, "arguments");
    for (int i = 0; i < worker_count; i++) {
        workers[i].index = i;
        start_thread(work, &workers[i]);
    }
    return serve(report, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sleepers [CALL ...]: a thread in each of these system calls (default: in all), over and over.
 *
 * Calls with a timeout of 50 to 97 ms must last that long; calls without one are ended by a feeder
 * thread every 60 to 107 ms. What a thread should never see is counted apart: EINTR, an early or
 * late return, any other result. "reset" sets the counters (not the loops) back to 0.
 *
 * {"calls":[{"call":"epoll_wait","loops":9,"eintr":0,"early_us":0,"late_us_max":80,"wrong":0,
 *            "errno":0,"timed":true,"coarse":false,"endless":false,"tid":5}, ...],
 *  "tids":[...],"progress":[...],"answers":[...],"answer":1}
 * A coarse call counts its timeout in ticks of the kernel, of up to 10 ms: it may be that late.
 * "progress" is that of the thread that calls answer() all the time. An endless call (pause) has
 * no loops: it returns only if something is wrong.
 */
#define _GNU_SOURCE
#include "sleepers.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MAX_SLEEPERS 128

static struct sleeper sleepers[MAX_SLEEPERS];
static int sleeper_count;
static struct worker main_loop;

struct timespec in_ms(int ms)
{
    return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
}

struct timespec after_ms(clockid_t clock, int ms)
{
    struct timespec until;

    clock_gettime(clock, &until);
    until.tv_nsec += ms * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return until;
}

void at_death(void (*remove)(int id), int id)
{
    pid_t parent = getpid();
    sigset_t term;
    int signal;

    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    if (fork() != 0)
        return;
    close_range(0, ~0U, 0);
    sigprocmask(SIG_BLOCK, &term, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent)
        sigwait(&term, &signal);
    remove(id);
    _exit(0);
}

static void note_error(struct sleeper *sleeper, int error)
{
    if (error == 0)
        return;
    if (error == EINTR) {
        sleeper->eintr++;
        return;
    }
    sleeper->wrong_errno = error;
    sleeper->wrong++;
}

/* How long after the moment it should have ended a call did end. */
static void note_deviation(struct sleeper *sleeper, int64_t late_ns)
{
    if (-late_ns > sleeper->early_ns)
        sleeper->early_ns = -late_ns;
    if (late_ns > sleeper->late_ns_max)
        sleeper->late_ns_max = late_ns;
}

static void sleep_timed(void *argument)
{
    struct sleeper *sleeper = argument;

    sleeper->tid = gettid();
    for (;;) {
        int64_t end = now_ns() + sleeper->timeout_ms * INT64_C(1000000);
        int error = sleeper->call->timed(sleeper, sleeper->timeout_ms);

        note_error(sleeper, error);
        if (error == 0)
            note_deviation(sleeper, now_ns() - end);
        sleeper->loops++;
    }
}

static void sleep_until_fed(void *argument)
{
    struct sleeper *sleeper = argument;

    sleeper->tid = gettid();
    for (;;) {
        int error = sleeper->call->fed(sleeper);

        note_error(sleeper, error);
        if (error)
            continue;
        note_deviation(sleeper, now_ns() - sleeper->fed_at);
        if (++sleeper->loops > sleeper->feeds)
            note_error(sleeper, ENODATA); /* ended without being fed */
    }
}

static void feed(void *argument)
{
    struct sleeper *sleeper = argument;

    for (;;) {
        struct timespec pause = in_ms(sleeper->timeout_ms + 10);

        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        if (sleeper->loops < sleeper->feeds)
            continue; /* still busy with the last one */
        sleeper->fed_at = now_ns();
        sleeper->feeds++;
        sleeper->call->feed(sleeper);
    }
}

static void start_sleeper(const struct call *call)
{
    struct sleeper *sleeper = &sleepers[sleeper_count];

    require(sleeper_count < MAX_SLEEPERS, "sleepers");
    sleeper->call = call;
    sleeper->timeout_ms = 50 + sleeper_count++ % 48;
    if (call->set_up)
        call->set_up(sleeper);
    start_thread(call->timed ? sleep_timed : sleep_until_fed, sleeper);
    if (call->feed)
        start_thread(feed, sleeper);
}

static bool wanted(const struct call *call, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], call->name) == 0)
            return true;
    return argc == 1;
}

static void start_wanted(const struct call *calls, int argc, char **argv)
{
    for (const struct call *call = calls; call->name; call++)
        if (wanted(call, argc, argv) && (!call->available || call->available()))
            start_sleeper(call);
}

static void run_main_loop(void *argument)
{
    for (;;) {
        work_done(argument);
        usleep(1000);
    }
}

static void report_sleeper(FILE *out, struct sleeper *sleeper)
{
    const struct call *call = sleeper->call;

    fprintf(out, "{\"call\":\"%s\",\"loops\":%ld,\"eintr\":%ld,", call->name, sleeper->loops,
            sleeper->eintr);
    fprintf(out, "\"early_us\":%ld,\"late_us_max\":%ld,\"wrong\":%ld,\"errno\":%d,",
            sleeper->early_ns / 1000, sleeper->late_ns_max / 1000, sleeper->wrong,
            sleeper->wrong_errno);
    fprintf(out, "\"timed\":%s,\"coarse\":%s,\"endless\":%s,\"tid\":%d}",
            call->timed ? "true" : "false", call->coarse ? "true" : "false",
            call->timed || call->feed ? "false" : "true", sleeper->tid);
}

static void report(FILE *out)
{
    fprintf(out, "\"calls\":[");
    for (int i = 0; i < sleeper_count; i++) {
        fprintf(out, i ? "," : "");
        report_sleeper(out, &sleepers[i]);
    }
    fprintf(out, "],");
    report_workers(out, &main_loop, 1);
}

static bool command(const char *line, FILE *out)
{
    if (strcmp(line, "reset") != 0)
        return false;
    for (int i = 0; i < sleeper_count; i++) {
        struct sleeper *sleeper = &sleepers[i];

        sleeper->eintr = sleeper->wrong = sleeper->wrong_errno = 0;
        sleeper->early_ns = sleeper->late_ns_max = 0;
    }
    fprintf(out, "\"reset\":true");
    return true;
}

/* Those that signalfd and sigwaitinfo take, and that sigtimedwait waits for in vain. */
static void block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    for (int i = 4; i <= 6; i++)
        sigaddset(&set, SIGRTMIN + i);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

int main(int argc, char **argv)
{
    block_signals();
    start_wanted(timed_calls, argc, argv);
    start_wanted(fed_calls, argc, argv);
    start_thread(run_main_loop, &main_loop);
    return serve(report, command);
}

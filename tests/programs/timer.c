/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * timer: interval timers of 200 us and streams of queued signals, each of which must arrive exactly
 * once.
 *
 * Timers (POSIX ones merge what cannot be delivered in time, and say so in si_overrun):
 *   handler   sent to a thread, taken by a handler on an alternate stack
 *   wait      sent to a thread that sits in sigwaitinfo
 *   process   sent to the process, two threads take them
 * Streams (sigqueue with values that count up, at most 32 under way):
 *   handler   sent to a thread     wait   sent to the process, one thread in sigwaitinfo
 *
 * {"timers":[{"name":"handler","expected":5000,"counted":5000,"lost":0,"duplicated":0}, ...],
 *  "streams":[{"name":"handler","sent":99,"received":99,"lost":0,"duplicated":0}, ...],
 *  "waits_interrupted":0,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 */
#define _GNU_SOURCE
#include "program.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_NS 200000
#define UNDER_WAY 32

struct timer {
    const char *name;
    int signal;
    int64_t started_at;
    atomic_long counted;
};

struct stream {
    const char *name;
    int signal;
    pthread_t receiver;
    atomic_bool ready;
    atomic_long sent, received, expected, lost, duplicated;
};

enum { HANDLER, WAIT, PROCESS };
static struct timer timers[] = {{.name = "handler"}, {.name = "wait"}, {.name = "process"}};
static struct stream streams[] = {{.name = "handler"}, {.name = "wait"}};
#define TIMERS (int)(sizeof timers / sizeof *timers)
#define STREAMS (int)(sizeof streams / sizeof *streams)

static atomic_long waits_interrupted;

static void count_expiry(const siginfo_t *info)
{
    for (int i = 0; i < TIMERS; i++)
        if (timers[i].signal == info->si_signo)
            timers[i].counted += 1 + info->si_overrun;
}

static void check_value(const siginfo_t *info)
{
    for (int i = 0; i < STREAMS; i++) {
        struct stream *stream = &streams[i];
        long value = info->si_value.sival_int;

        if (stream->signal != info->si_signo)
            continue;
        stream->received++;
        if (value < stream->expected) {
            stream->duplicated++;
            continue;
        }
        stream->lost += value - stream->expected;
        stream->expected = value + 1;
    }
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
    int error = errno;

    (void)signal;
    (void)context;
    if (info->si_code == SI_TIMER)
        count_expiry(info);
    else
        check_value(info);
    errno = error;
}

static void install_handlers(void)
{
    struct sigaction action = {.sa_sigaction = on_signal,
                               .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};

    for (int i = 0; i < TIMERS; i++) {
        timers[i].signal = SIGRTMIN + i;
        sigaction(timers[i].signal, &action, NULL);
    }
    for (int i = 0; i < STREAMS; i++) {
        streams[i].signal = SIGRTMIN + TIMERS + i;
        sigaction(streams[i].signal, &action, NULL);
    }
}

static void change_mask(int how, int signal)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(how, &set, NULL);
}

static void use_alternate_stack(void)
{
    stack_t alternate = {.ss_sp = malloc(65536), .ss_size = 65536};

    require(alternate.ss_sp && sigaltstack(&alternate, NULL) == 0, "sigaltstack");
}

static void start_timer(struct timer *timer, int notify)
{
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = timer->signal};
    struct itimerspec times = {.it_interval.tv_nsec = INTERVAL_NS};
    timer_t id;

    event._sigev_un._tid = gettid();
    require(timer_create(CLOCK_MONOTONIC, &event, &id) == 0, "timer_create");
    timer->started_at = now_ns();
    times.it_value.tv_sec = (timer->started_at + INTERVAL_NS) / 1000000000;
    times.it_value.tv_nsec = (timer->started_at + INTERVAL_NS) % 1000000000;
    require(timer_settime(id, TIMER_ABSTIME, &times, NULL) == 0, "timer_settime");
}

static void work_for_a_while(struct worker *worker)
{
    for (volatile int i = 0; i < 20000; i++)
        ;
    work_done(worker);
    usleep(500);
}

static void take_timer_in_handler(void *argument)
{
    use_alternate_stack();
    change_mask(SIG_UNBLOCK, timers[HANDLER].signal);
    start_timer(&timers[HANDLER], SIGEV_THREAD_ID);
    for (;;)
        work_for_a_while(argument);
}

static void take_timer_of_process(void *argument)
{
    change_mask(SIG_UNBLOCK, timers[PROCESS].signal);
    for (;;)
        work_for_a_while(argument);
}

/* The next of these signals, by sigwaitinfo, which no other signal interrupts as all are blocked.
 */
static void take_one(int signal, siginfo_t *info)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, signal);
    while (sigwaitinfo(&set, info) < 0)
        waits_interrupted++;
}

static void take_timer_by_waiting(void *argument)
{
    siginfo_t info;

    start_timer(&timers[WAIT], SIGEV_THREAD_ID);
    for (;;) {
        take_one(timers[WAIT].signal, &info);
        count_expiry(&info);
        work_done(argument);
    }
}

static void take_stream_in_handler(void *argument)
{
    change_mask(SIG_UNBLOCK, streams[HANDLER].signal);
    streams[HANDLER].receiver = pthread_self();
    streams[HANDLER].ready = true;
    for (;;)
        work_for_a_while(argument);
}

static void take_stream_by_waiting(void *argument)
{
    siginfo_t info;

    streams[WAIT].ready = true;
    for (;;) {
        take_one(streams[WAIT].signal, &info);
        check_value(&info);
        work_done(argument);
    }
}

static int queue_signal(struct stream *stream)
{
    union sigval value = {.sival_int = stream->sent};

    if (stream == &streams[HANDLER])
        return pthread_sigqueue(stream->receiver, stream->signal, value);
    return sigqueue(getpid(), stream->signal, value) ? errno : 0;
}

static void send_streams(void *argument)
{
    for (;;) {
        for (int i = 0; i < STREAMS; i++) {
            struct stream *stream = &streams[i];

            if (stream->ready && stream->sent - stream->expected < UNDER_WAY &&
                queue_signal(stream) == 0)
                stream->sent++;
        }
        work_done(argument);
        usleep(50);
    }
}

static thread_body *const bodies[] = {
    take_timer_in_handler,  take_timer_by_waiting,  take_timer_of_process, take_timer_of_process,
    take_stream_in_handler, take_stream_by_waiting, send_streams,
};
#define WORKERS (int)(sizeof bodies / sizeof *bodies)
static struct worker workers[WORKERS];

static long expirations(const struct timer *timer)
{
    return (now_ns() - timer->started_at) / INTERVAL_NS;
}

/*
 * How many expirations are not counted yet: never too few, as `counted` is read first. The least of
 * several samples is exact, for most signals arrive at once: above 0, that many are lost; below,
 * made up.
 */
static long missing(struct timer *timer)
{
    int64_t deadline = now_ns() + 1000000000;
    long least = INT32_MAX;

    for (int i = 0; i < 20 || (least > 0 && now_ns() < deadline); i++) {
        long counted = timer->counted, now = expirations(timer) - counted;

        least = now < least ? now : least;
        usleep(100);
    }
    return least;
}

static void report_timer(FILE *out, struct timer *timer)
{
    long lost = missing(timer);

    fprintf(out, "{\"name\":\"%s\",\"expected\":%ld,\"counted\":%ld,", timer->name,
            expirations(timer), timer->counted);
    fprintf(out, "\"lost\":%ld,\"duplicated\":%ld}", lost > 0 ? lost : 0, lost < 0 ? -lost : 0);
}

static void report_stream(FILE *out, struct stream *stream)
{
    fprintf(out, "{\"name\":\"%s\",\"sent\":%ld,\"received\":%ld,", stream->name, stream->sent,
            stream->received);
    fprintf(out, "\"lost\":%ld,\"duplicated\":%ld}", stream->lost, stream->duplicated);
}

static void report(FILE *out)
{
    fprintf(out, "\"timers\":[");
    for (int i = 0; i < TIMERS; i++) {
        fprintf(out, i ? "," : "");
        report_timer(out, &timers[i]);
    }
    fprintf(out, "],\"streams\":[");
    for (int i = 0; i < STREAMS; i++) {
        fprintf(out, i ? "," : "");
        report_stream(out, &streams[i]);
    }
    fprintf(out, "],\"waits_interrupted\":%ld,", waits_interrupted);
    report_workers(out, workers, WORKERS);
}

int main(void)
{
    install_handlers();
    for (int i = 0; i < TIMERS + STREAMS; i++)
        change_mask(SIG_BLOCK, SIGRTMIN + i); /* the threads inherit it */
    start_timer(&timers[PROCESS], SIGEV_SIGNAL);
    for (int i = 0; i < WORKERS; i++) {
        workers[i].index = i;
        start_thread(bodies[i], &workers[i]);
    }
    return serve(report, NULL);
}

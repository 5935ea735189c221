// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Forty functions that must agree, and threads of every kind that call them.
 *
 *     forty [--threads 6] [--period-ms 5] [--spinners 2]
 *
 * Each function returns its version. A thread runs transaction() over and over, which calls all
 * forty. The sum is 40 times the version where all are of one version; any other sum is counted
 * as mixed. Between two transactions the threads wait, each in the way of its kind, for one
 * period; --spinners says how many at most spin instead. (Kinds take turns: see `kinds`.)
 *
 * `READY pid=P threads=N` is printed when every thread has made a transaction. Then each line on
 * stdin is answered by one on stdout:
 *
 *     ask     sum=40 f00=1 mixed=0 interrupted=0 progress=812,790,...
 *     kinds   spin,nanosleep,poll,...
 *     quit    (the end, as with end of file and SIGTERM)
 *
 * where progress counts the transactions of each thread, and interrupted the waits that ended with
 * EINTR, which nothing here should cause.
 */
#define _GNU_SOURCE
#include "../common/target.h"
#include "forty.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MOST_THREADS = 2000, STACK_SIZE = 64 * 1024 };

#define DEFINE(n)                                                                                  \
    PATCHABLE int f##n(void)                                                                       \
    {                                                                                              \
        return 1;                                                                                  \
    }
FORTY(DEFINE)

PATCHABLE int transaction(void)
{
    int sum = 0;
#define ADD(n) sum += f##n();
    FORTY(ADD)
    return sum;
}

/* ---- Ways to wait: -1 with errno where the wait failed ---- */

static long period_ms = 5;

static int wait_spin(int fd)
{
    (void)fd;
    int64_t end = now_ms() + 1;
    while (now_ms() < end)
        ;
    return 0;
}

static int wait_nanosleep(int fd)
{
    (void)fd;
    return nanosleep(&(struct timespec){.tv_nsec = period_ms * 1000000}, NULL);
}

static int wait_poll(int fd)
{
    (void)fd;
    return poll(NULL, 0, period_ms);
}

static int wait_epoll(int fd)
{
    struct epoll_event event;
    return epoll_wait(fd, &event, 1, period_ms);
}

static int wait_read(int fd)
{
    uint64_t expirations;
    return read(fd, &expirations, sizeof(expirations));
}

static int wait_futex(int fd)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    (void)fd;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += period_ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&lock);
    pthread_cond_timedwait(&never, &lock, &until);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* ---- What a kind waits on ---- */

static int open_nothing(void)
{
    return 0;
}

static int open_epoll(void)
{
    return epoll_create1(EPOLL_CLOEXEC);
}

static int open_timer(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct timespec period = {.tv_nsec = period_ms * 1000000};
    return fd < 0 || timerfd_settime(fd, 0, &(struct itimerspec){period, period}, NULL) ? -1 : fd;
}

static const struct kind {
    const char *name;
    int (*open)(void);
    int (*wait)(int fd);
} kinds[] = {
    {"spin", open_nothing, wait_spin}, {"nanosleep", open_nothing, wait_nanosleep},
    {"poll", open_nothing, wait_poll}, {"epoll", open_epoll, wait_epoll},
    {"read", open_timer, wait_read},   {"futex", open_nothing, wait_futex},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* ---- Threads ---- */

static struct thread {
    const struct kind *kind;
    int fd;
    _Atomic uint64_t transactions;
} threads[MOST_THREADS];

static int thread_count = KINDS;
static long spinners = 2;
static _Atomic uint64_t mixed;
static _Atomic uint64_t interrupted;
static pthread_barrier_t all_ran;

static void transact(struct thread *thread)
{
    if (transaction() % FUNCTIONS != 0)
        mixed++;
    thread->transactions++;
}

static void *run(void *argument)
{
    struct thread *thread = argument;
    transact(thread);
    pthread_barrier_wait(&all_ran);
    for (;;) {
        if (thread->kind->wait(thread->fd) < 0) {
            if (errno != EINTR)
                die(thread->kind->name);
            interrupted++;
        }
        transact(thread);
    }
    return NULL;
}

static const struct kind *kind_of(int i)
{
    const struct kind *kind = &kinds[i % KINDS];
    return kind->wait == wait_spin && spinners-- <= 0 ? &kinds[1] : kind;
}

static void start_threads(void)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    pthread_barrier_init(&all_ran, NULL, thread_count + 1);
    for (int i = 0; i < thread_count; i++) {
        pthread_t id;
        threads[i].kind = kind_of(i);
        threads[i].fd = threads[i].kind->open();
        if (threads[i].fd < 0)
            die(threads[i].kind->name);
        errno = pthread_create(&id, &attributes, run, &threads[i]);
        if (errno)
            die("pthread_create");
    }
    pthread_barrier_wait(&all_ran);
}

/* ---- The line protocol ---- */

static void answer_ask(void)
{
    printf("sum=%d f00=%d mixed=%lu interrupted=%lu progress=", transaction(), f00(), mixed,
           interrupted);
    for (int i = 0; i < thread_count; i++)
        printf("%s%lu", i ? "," : "", threads[i].transactions);
    say("%s", "");
}

static void answer_kinds(void)
{
    for (int i = 0; i < thread_count; i++)
        printf("%s%s", i ? "," : "", threads[i].kind->name);
    say("%s", "");
}

static void serve(void)
{
    char line[64];
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (!strcmp(line, "ask"))
            answer_ask();
        else if (!strcmp(line, "kinds"))
            answer_kinds();
        else if (!strcmp(line, "quit"))
            return;
        else
            say("ERR unknown command");
    }
}

static void on_term(int number)
{
    (void)number;
    _exit(0);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"threads", required_argument, NULL, 't'},
        {"period-ms", required_argument, NULL, 'm'},
        {"spinners", required_argument, NULL, 's'},
        {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 't')
            thread_count = number_option("threads", optarg, 1, MOST_THREADS);
        else if (option == 'm')
            period_ms = number_option("period-ms", optarg, 1, 999);
        else if (option == 's')
            spinners = number_option("spinners", optarg, 0, MOST_THREADS);
        else
            usage("forty [--threads 6] [--period-ms 5] [--spinners 2]");
    }

    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_term);
    start_threads();
    say("READY pid=%d threads=%d", getpid(), thread_count);
    serve();
    return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * crowd N MODE US: N threads that are in work() nearly all the time, for US microseconds a call:
 *
 *   spinning    in a loop                     sleeping   in nanosleep(2)
 *   nested      in inner(), called by work() again and again; it can be replaced as well
 *   recursive   in calls of work() by itself, five deep
 *   locking     every second thread takes a lock in work(), the others call work() holding it
 *   signals     spinning, with a timer signal every 200 us
 *   filtered    spinning, with a seccomp filter that kills whoever waits as a gate would
 *   rounds      asleep in inner(), called by work(), which never returns: it calls pause_point()
 *               once a round
 *
 * {"mixed":0,"signals":0,"longest_us":510,"progress":[...],"answers":[...],"answer":1}
 * answers: what the last call of each thread returned, 1 as built. mixed: calls in which work() and
 * inner() were of different versions. longest_us: the longest call since the last "ask".
 */
#define _GNU_SOURCE
#include "crowd.h"

#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define MOST 64

static int count;
static long length_us;
static atomic_long mixed, signals, longest_us;
static struct worker workers[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
enum mode mode;

static const char *const names[] = {"spinning", "sleeping", "nested",  "recursive",
                                    "locking",  "signals",  "filtered",  "rounds"};

void spend(long us)
{
    int64_t end = now_ns() + us * 1000;

    if (mode == SLEEPING || mode == ENDLESS_ROUNDS) {
        struct timespec time = {us / 1000000, us % 1000000 * 1000};

        nanosleep(&time, NULL);
        return;
    }
    while (now_ns() < end)
        ;
}

void take_lock(void)
{
    pthread_mutex_lock(&lock);
}

void give_lock(void)
{
    pthread_mutex_unlock(&lock);
}

void note(struct worker *worker, int version, int inner_version)
{
    mixed += version != inner_version;
    worker->answer = version;
    worker->progress++;
}

static void run(void *argument)
{
    struct worker *worker = argument;
    bool outside = mode == LOCKING && worker->index % 2;

    for (;;) {
        int64_t before = now_ns();
        long took;
        int version;

        if (outside)
            take_lock();
        version = work(worker, outside ? 0 : mode, length_us);
        if (outside) {
            give_lock();
            usleep(length_us);
        }
        took = (now_ns() - before) / 1000;
        for (long most = longest_us; took > most;)
            if (atomic_compare_exchange_weak(&longest_us, &most, took))
                break;
        note(worker, version / 10, version % 10);
    }
}

static void run_rounds(void *argument)
{
    work(argument, mode, length_us);
}

static void count_signal(int number)
{
    (void)number;
    signals++;
}

static void start_timer(void)
{
    struct sigaction action = {.sa_handler = count_signal, .sa_flags = SA_RESTART};
    struct itimerval timer = {{0, 200}, {0, 200}};

    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void filter_futex(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FUTEX_WAIT_BITSET_PRIVATE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};

    require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
    require(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "PR_SET_SECCOMP");
}

static void report(FILE *out)
{
    int first = workers[0].answer;

    fprintf(out, "\"mixed\":%ld,\"signals\":%ld,\"longest_us\":%ld,\"progress\":[", mixed, signals,
            atomic_exchange(&longest_us, 0));
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%ld", i ? "," : "", workers[i].progress);
    fprintf(out, "],\"answers\":[");
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%d", i ? "," : "", workers[i].answer);
    fprintf(out, "],\"answer\":%d", first);
}

int main(int argc, char **argv)
{
    require(argc == 4, "crowd N MODE US");
    count = atoi(argv[1]);
    length_us = atol(argv[3]);
    require(count >= 1 && count <= MOST && length_us > 0, "N, US");
    for (mode = 0; mode < MODES && strcmp(argv[2], names[mode]) != 0;)
        mode++;
    require(mode < MODES, "MODE");
    if (mode == SIGNALS)
        start_timer();
    if (mode == FILTERED)
        filter_futex();
    for (int i = 0; i < count; i++) {
        workers[i].index = i;
        start_thread(mode == ENDLESS_ROUNDS ? run_rounds : run, &workers[i]);
    }
    return serve(report, NULL);
}

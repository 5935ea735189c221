/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * floor [--rounds N] [--gap MS] [--priority] PID
 *
 * The least that stopping a process costs: seize every thread, interrupt all, wait for all, read
 * the registers and 16 KiB of stack of each, detach all. What hotpatch's pause is compared with.
 *
 * {"rounds":20,"threads":100,"pause_us":{"min":..,"median":..,"max":..},
 *  "held_us":{"min":..,"median":..,"max":..},"bytes":1638400}
 * pause: from before the first INTERRUPT to after the last DETACH; held: the longest time from the
 * INTERRUPT to the DETACH of any one thread; bytes: of stack read in the last round.
 *
 * No SIGSTOP, no PTRACE_ATTACH; the target is seized before the clock starts, as that stops
 * nothing. It resumes calls as the kernel does by itself, so the target may see EINTR where
 * hotpatch shows none.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES 16384
#define MAX_THREADS 20000
#define THREADS_A_CALL 512 /* each takes an iovec on both sides; IOV_MAX is 1024 */

struct thread {
    pid_t tid;
    int64_t interrupted_at, detached_at;
    struct user_regs_struct registers;
};

static struct thread threads[MAX_THREADS];
static int thread_count;
static char *stacks;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void seize_all(pid_t pid)
{
    char path[64];
    struct dirent *entry;
    DIR *directory;

    snprintf(path, sizeof path, "/proc/%d/task", pid);
    if (!(directory = opendir(path)))
        die(path);
    thread_count = 0;
    while ((entry = readdir(directory)) && thread_count < MAX_THREADS) {
        pid_t tid = atoi(entry->d_name);

        if (tid > 0 && ptrace(PTRACE_SEIZE, tid, 0, 0) == 0)
            threads[thread_count++].tid = tid;
    }
    closedir(directory);
    if (thread_count == 0)
        die("PTRACE_SEIZE");
}

static void interrupt_all(void)
{
    for (int i = 0; i < thread_count; i++) {
        threads[i].interrupted_at = now_ns();
        ptrace(PTRACE_INTERRUPT, threads[i].tid, 0, 0);
    }
}

static void wait_for_all(void)
{
    for (int i = 0; i < thread_count; i++) {
        int status;

        while (waitpid(threads[i].tid, &status, __WALL) < 0 && errno == EINTR)
            ;
    }
}

static void read_registers(void)
{
    for (int i = 0; i < thread_count; i++) {
        struct iovec area = {&threads[i].registers, sizeof threads[i].registers};

        ptrace(PTRACE_GETREGSET, threads[i].tid, NT_PRSTATUS, &area);
    }
}

/* The stacks of some threads in one call. One that ends before 16 KiB cuts the call short. */
static long read_some_stacks(pid_t pid, int first, int count)
{
    struct iovec local[THREADS_A_CALL], remote[THREADS_A_CALL];

    for (int i = 0; i < count; i++) {
        void *stack = (void *)threads[first + i].registers.rsp;

        local[i] = (struct iovec){stacks + (size_t)(first + i) * STACK_BYTES, STACK_BYTES};
        remote[i] = (struct iovec){stack, STACK_BYTES};
    }
    return process_vm_readv(pid, local, count, remote, count, 0);
}

static long read_stacks(pid_t pid)
{
    long bytes = 0;

    for (int first = 0; first < thread_count;) {
        int left = thread_count - first;
        long got = read_some_stacks(pid, first, left < THREADS_A_CALL ? left : THREADS_A_CALL);

        if (got > 0)
            bytes += got;
        /* go on after the stack that was cut short, or after all that were read */
        first += got > 0 ? (got + STACK_BYTES - 1) / STACK_BYTES : 1;
    }
    return bytes;
}

static void detach_all(void)
{
    for (int i = 0; i < thread_count; i++) {
        ptrace(PTRACE_DETACH, threads[i].tid, 0, 0);
        threads[i].detached_at = now_ns();
    }
}

static int64_t longest_held(void)
{
    int64_t longest = 0;

    for (int i = 0; i < thread_count; i++) {
        int64_t held = threads[i].detached_at - threads[i].interrupted_at;

        if (held > longest)
            longest = held;
    }
    return longest;
}

struct round {
    int64_t pause_ns, held_ns;
    long bytes;
};

static struct round run_round(pid_t pid)
{
    struct round round;
    int64_t start;

    seize_all(pid);
    start = now_ns();
    interrupt_all();
    wait_for_all();
    read_registers();
    round.bytes = read_stacks(pid);
    detach_all();
    round.pause_ns = now_ns() - start;
    round.held_ns = longest_held();
    return round;
}

static int compare_times(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;

    return (a > b) - (a < b);
}

static void print_times(const char *name, int64_t *times, int count)
{
    qsort(times, count, sizeof *times, compare_times);
    printf("\"%s\":{\"min\":%ld,\"median\":%ld,\"max\":%ld},", name, times[0] / 1000,
           times[count / 2] / 1000, times[count - 1] / 1000);
}

static void run_rounds(pid_t pid, int rounds, int gap_ms)
{
    int64_t *pauses = calloc(rounds, sizeof *pauses), *held = calloc(rounds, sizeof *held);
    struct round round = {0};

    for (int i = 0; i < rounds; i++) {
        round = run_round(pid);
        pauses[i] = round.pause_ns;
        held[i] = round.held_ns;
        usleep(gap_ms * 1000);
    }
    printf("{\"rounds\":%d,\"threads\":%d,", rounds, thread_count);
    print_times("pause_us", pauses, rounds);
    print_times("held_us", held, rounds);
    printf("\"bytes\":%ld}\n", round.bytes);
}

/* As hotpatch does during a stop, where it may. */
static void raise_priority(void)
{
    struct sched_param parameters = {.sched_priority = 1};

    if (sched_setscheduler(0, SCHED_FIFO, &parameters) < 0)
        setpriority(PRIO_PROCESS, 0, -20);
}

static void set_up_memory(void)
{
    size_t size = (size_t)MAX_THREADS * STACK_BYTES;

    stacks = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                  -1, 0);
    if (stacks == MAP_FAILED)
        die("mmap");
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"rounds", required_argument, NULL, 'r'},
                                            {"gap", required_argument, NULL, 'g'},
                                            {"priority", no_argument, NULL, 'p'},
                                            {0}};
    int option, rounds = 20, gap_ms = 20;
    bool priority = false;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'r')
            rounds = atoi(optarg);
        else if (option == 'g')
            gap_ms = atoi(optarg);
        else if (option == 'p')
            priority = true;
        else
            return 2;
    }
    if (optind + 1 != argc || rounds < 1) {
        fprintf(stderr, "usage: floor [--rounds N] [--gap MS] [--priority] PID\n");
        return 2;
    }
    set_up_memory();
    if (priority)
        raise_priority();
    run_rounds(atoi(argv[optind]), rounds, gap_ms);
    return 0;
}

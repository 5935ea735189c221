/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rseq [THREADS]: threads (4) that are inside restartable sequences nearly all the time, each
 * adding 1 to a counter of its CPU. The kernel aborts a sequence that is preempted; one that is
 * carried on all the same (its thread was borrowed and put back, say) loses the additions of others
 * in between.
 *
 * {"added":90000,"counted":90000,"aborted":20,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * added: sequences that said they were completed; counted: the sum of the counters. The two are
 * read while all threads pause, so they are equal or an addition is lost.
 */
#define _GNU_SOURCE
#include "program.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/rseq.h>
#include <unistd.h>

#define MAX_WORKERS 16
#define MAX_CPUS 1024
#define ADDITIONS_AN_ANSWER 50

static struct worker workers[MAX_WORKERS];
static int worker_count = 4;
static atomic_long added[MAX_WORKERS], aborted;
static long counters[MAX_CPUS];
static pthread_rwlock_t pause_lock = PTHREAD_RWLOCK_INITIALIZER;

static struct rseq *this_rseq(void)
{
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/*
 * counters[cpu] += 1, with a long way from the load to the store. False: aborted, nothing was
 * stored. The descriptor and the signature before the abort handler are as linux/rseq.h and
 * sys/rseq.h say.
 */
static bool add_one(struct rseq *area)
{
    uint32_t cpu = area->cpu_id_start;
    long *counter = &counters[cpu], value, rounds = 20000;

    __asm__ goto volatile(".pushsection __rseq_cs, \"aw\"\n"
                          ".balign 32\n"
                          "3: .long 0, 0\n"
                          ".quad 1f, 2f - 1f, 4f\n"
                          ".popsection\n"
                          "leaq 3b(%%rip), %[value]\n"
                          "movq %[value], %[rseq_cs]\n"
                          "1: cmpl %[cpu], %[cpu_id]\n"
                          "jnz 4f\n"
                          "movq (%[counter]), %[value]\n"
                          "5: decq %[rounds]\n"
                          "jnz 5b\n"
                          "incq %[value]\n"
                          "movq %[value], (%[counter])\n" /* the commit */
                          "2:\n"
                          ".pushsection __rseq_failure, \"ax\"\n"
                          ".byte 0x0f, 0xb9, 0x3d\n" /* ud1 with the signature as its operand */
                          ".long 0x53053053\n"
                          "4: jmp %l[abort]\n"
                          ".popsection\n"
                          : [value] "=&r"(value), [rounds] "+&r"(rounds)
                          : [rseq_cs] "m"(area->rseq_cs), [cpu_id] "m"(area->cpu_id),
                            [cpu] "r"(cpu), [counter] "r"(counter)
                          : "memory", "cc"
                          : abort);
    return true;
abort:
    return false;
}

static void add(void *argument)
{
    struct worker *worker = argument;
    struct rseq *area = this_rseq();

    require((int)area->cpu_id >= 0, "rseq");
    for (;;) {
        pthread_rwlock_rdlock(&pause_lock);
        for (int i = 0; i < ADDITIONS_AN_ANSWER; i++) {
            if (add_one(area))
                added[worker->index]++;
            else
                aborted++;
        }
        pthread_rwlock_unlock(&pause_lock);
        work_done(worker);
    }
}

static void report(FILE *out)
{
    long sum = 0, counted = 0;

    pthread_rwlock_wrlock(&pause_lock);
    for (int i = 0; i < worker_count; i++)
        sum += added[i];
    for (int i = 0; i < MAX_CPUS; i++)
        counted += counters[i];
    pthread_rwlock_unlock(&pause_lock);
    fprintf(out, "\"added\":%ld,\"counted\":%ld,\"aborted\":%ld,", sum, counted, aborted);
    report_workers(out, workers, worker_count);
}

int main(int argc, char **argv)
{
    pthread_rwlockattr_t attributes;

    if (argc > 1)
        worker_count = atoi(argv[1]);
    require(worker_count >= 1 && worker_count <= MAX_WORKERS, "THREADS");
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&pause_lock, &attributes);
    for (int i = 0; i < worker_count; i++) {
        workers[i].index = i;
        start_thread(add, &workers[i]);
    }
    return serve(report, NULL);
}

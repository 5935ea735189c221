/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * registers [KIND ...]: one thread a kind (default: all), each keeping distinctive values live
 * in a part of a thread's state and counting whatever changes there.
 *
 *   general, general-asleep   all general registers and the red zone; spinning, or around nanosleep
 *   flags                     CF PF AF ZF SF DF OF
 *   xsave, xsave-asleep       x87, MXCSR, xmm, ymm, zmm, k0-7: every XSAVE component the CPU has
 *   context                   signal mask, alternate stack, errno, fs and gs base, rseq area, ...
 *
 * {"kinds":[...],"tids":[...],"progress":[...],"answers":[...],"answer":1,"mismatches":0,"detail":null,
 *  "xsave_components":231}
 */
#define _GNU_SOURCE
#include "program.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REGISTERS 15
#define ROUNDS_GENERAL 20000
#define ROUNDS_LOOP 100000

struct spin { /* the offsets are repeated in registers_spin.S */
    uint64_t pattern[REGISTERS];
    uint64_t seen[REGISTERS];
    uint64_t stack;
    uint64_t remaining;
};
__thread struct spin spin;

int spin_general(void);
int spin_asleep(const struct timespec *interval);
uint64_t spin_flags(uint64_t flags, uint64_t rounds);
void spin_xsave(const void *image, void *seen, const void *clean, uint64_t mask, uint64_t rounds,
                const struct timespec *interval);

static const char *const register_names[REGISTERS] = {"rax", "rbx", "rcx", "rdx", "rsi",
                                                      "rdi", "rbp", "r8",  "r9",  "r10",
                                                      "r11", "r12", "r13", "r14", "r15"};
static const struct timespec interval = {.tv_nsec = 2000000};

static atomic_long mismatches;
static char detail[200];    /* of the first mismatch */
static uint64_t components; /* of XCR0, those that are judged */

static void mismatch(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void mismatch(const char *format, ...)
{
    va_list arguments;

    if (mismatches++ > 0)
        return;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
}

static void fill_pattern(int seed)
{
    for (int i = 0; i < REGISTERS; i++)
        spin.pattern[i] = UINT64_C(0xd15ea5e000000000) + seed * 0x10000 + i * 0x0101 + 1;
}

static void report_general(const char *kind, bool asleep)
{
    const char *where = asleep ? "result, argument, red zone or rsp" : "red zone or rsp";
    uint64_t seen = 0, expected = 0;

    for (int i = 0; i < REGISTERS; i++) {
        bool clobbered = i == 0 || i == 2 || i == 4 || i == 5 || i == 10;

        if (spin.seen[i] == spin.pattern[i] || (asleep && clobbered))
            continue;
        where = register_names[i];
        seen = spin.seen[i];
        expected = spin.pattern[i];
        break;
    }
    mismatch("%s: %s is %#lx, was %#lx (rax %#lx)", kind, where, seen, expected, spin.seen[0]);
}

static void keep_general(void *argument)
{
    struct worker *worker = argument;

    fill_pattern(worker->index);
    for (;;) {
        spin.remaining = ROUNDS_GENERAL;
        if (spin_general())
            report_general("general", false);
        work_done(worker);
    }
}

static void keep_general_asleep(void *argument)
{
    struct worker *worker = argument;

    fill_pattern(worker->index);
    for (;;) {
        if (spin_asleep(&interval))
            report_general("general-asleep", true);
        work_done(worker);
    }
}

static void keep_flags(void *argument)
{
    /* bit 1 always, IF always; CF PF AF ZF SF DF OF as listed */
    static const uint64_t patterns[] = {0x202 | 0xcd5, 0x202, 0x202 | 0x401, 0x202 | 0x8d0};
    struct worker *worker = argument;

    for (;;) {
        uint64_t expected = patterns[worker->progress % 4];
        uint64_t seen = spin_flags(expected, ROUNDS_LOOP);

        if (seen != expected)
            mismatch("flags: %#lx, was %#lx", seen, expected);
        work_done(worker);
    }
}

/*
 * XSAVE areas, standard format (Intel SDM volume 1, 13.4): the legacy area of 512 bytes, the header
 * of 64 bytes, then the components where CPUID leaf 0xd says.
 */
struct area {
    _Alignas(64) unsigned char bytes[16384];
};
#define AREA_HEADER 512

/* x87, SSE, AVX, opmask, ZMM_Hi256, Hi16_ZMM.  AMX tiles want a permission first; PKRU is kept as
 * is. */
#define JUDGED_COMPONENTS UINT64_C(0xe7)

static uint64_t xgetbv0(void)
{
    uint32_t low, high;

    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

static void xsave(struct area *area, uint64_t mask)
{
    __asm__ volatile("xsave64 %0" : "+m"(*area) : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)));
}

static void fill(unsigned char *bytes, size_t size, int seed)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (unsigned char)(0x11 + seed * 37 + i * 7);
}

static void fill_legacy(unsigned char *area, int seed)
{
    uint16_t control = 0x0c7f, status = 3 << 11; /* truncate, single; top of stack 3 */
    uint32_t mxcsr = 0xdfbf; /* flush to zero, round up, all masked, all flags up */

    memcpy(area, &control, sizeof control);
    memcpy(area + 2, &status, sizeof status);
    area[4] = 0xff; /* all eight registers in use */
    memcpy(area + 24, &mxcsr, sizeof mxcsr);
    for (int i = 0; i < 8; i++)
        fill(area + 32 + 16 * i, 10, seed + i);
    fill(area + 160, 256, seed);
}

static void fill_image(struct area *image, int seed)
{
    uint32_t size, offset, ecx, edx;

    fill_legacy(image->bytes, seed);
    for (int component = 2; component < 8; component++) {
        if (!(components & UINT64_C(1) << component))
            continue;
        __cpuid_count(0xd, component, size, offset, ecx, edx);
        fill(image->bytes + offset, size, seed + component);
    }
    memcpy(image->bytes + AREA_HEADER, &components, sizeof components);
}

static void compare_areas(const char *kind, struct area *image, struct area *seen)
{
    /* the header says which components were in use: their contents are what counts */
    memcpy(seen->bytes + AREA_HEADER, image->bytes + AREA_HEADER, 64);
    if (memcmp(image, seen, sizeof *image) == 0)
        return;
    for (size_t i = 0; i < sizeof *image; i++)
        if (image->bytes[i] != seen->bytes[i]) {
            mismatch("%s: byte %zu of the XSAVE area is %#x, was %#x", kind, i, seen->bytes[i],
                     image->bytes[i]);
            return;
        }
}

static void keep_xsave_area(struct worker *worker, const char *kind, uint64_t rounds)
{
    static __thread struct area image, seen, clean;

    components = xgetbv0() & JUDGED_COMPONENTS;
    xsave(&clean, components);
    fill_image(&image, worker->index);
    /* what the CPU makes of it (reserved bytes, MXCSR_MASK) is the image to compare with */
    spin_xsave(&image, &seen, &clean, components, 1, &interval);
    memcpy(&image, &seen, sizeof image);
    for (;;) {
        spin_xsave(&image, &seen, &clean, components, rounds, &interval);
        compare_areas(kind, &image, &seen);
        work_done(worker);
    }
}

static void keep_xsave(void *argument)
{
    keep_xsave_area(argument, "xsave", ROUNDS_LOOP);
}

static void keep_xsave_asleep(void *argument)
{
    keep_xsave_area(argument, "xsave-asleep", 0);
}

/* What a thread can ask the kernel about itself. */
struct context {
    uint64_t mask; /* blocked signals */
    uint64_t pending;
    stack_t alternate;
    int error; /* errno */
    unsigned long fs, gs;
    void *robust_list;
    int priority;
    char name[16];
    int rseq_registered; /* errno of registering again what is registered: EBUSY */
    uint64_t rseq_cs;
};

static void read_rseq(struct context *context)
{
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

    /* 32: the size glibc registers; the kernel answers EBUSY only if area, size and signature agree
     */
    syscall(SYS_rseq, area, 32, 0, RSEQ_SIG);
    context->rseq_registered = errno;
    context->rseq_cs = area->rseq_cs;
}

static void read_context(struct context *context)
{
    size_t size;

    context->error = errno;
    memset((char *)context + offsetof(struct context, alternate), 0, sizeof(stack_t));
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &context->mask, 8);
    syscall(SYS_rt_sigpending, &context->pending, 8);
    sigaltstack(NULL, &context->alternate);
    syscall(SYS_arch_prctl, ARCH_GET_FS, &context->fs);
    syscall(SYS_arch_prctl, ARCH_GET_GS, &context->gs);
    syscall(SYS_get_robust_list, 0, &context->robust_list, &size);
    context->priority = getpriority(PRIO_PROCESS, gettid());
    prctl(PR_GET_NAME, context->name);
    read_rseq(context);
}

static void set_context(void)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigset_t blocked;

    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGRTMIN + 7);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    require(sigaltstack(&alternate, NULL) == 0, "sigaltstack");
    require(syscall(SYS_arch_prctl, ARCH_SET_GS, UINT64_C(0x123456789000)) == 0, "ARCH_SET_GS");
    require(prctl(PR_SET_NAME, "context") == 0, "PR_SET_NAME");
}

static void compare_contexts(const struct context *was, const struct context *is)
{
#define SAME(field)                                                                                \
    if (memcmp(&was->field, &is->field, sizeof was->field) != 0)                                   \
    mismatch("context: " #field " changed")
    SAME(mask);
    SAME(pending);
    SAME(alternate);
    SAME(error);
    SAME(fs);
    SAME(gs);
    SAME(robust_list);
    SAME(priority);
    SAME(name);
    SAME(rseq_registered);
    SAME(rseq_cs);
#undef SAME
}

static void keep_context(void *argument)
{
    struct worker *worker = argument;
    struct context was = {0}, is = {0};

    set_context();
    errno = 4711;
    read_context(&was);
    for (;;) {
        errno = 4711;
        syscall(SYS_nanosleep, &interval, NULL); /* on failure errno becomes that of the failure */
        for (volatile int i = 0; i < ROUNDS_LOOP; i++)
            ;
        read_context(&is);
        compare_contexts(&was, &is);
        work_done(worker);
    }
}

static const struct kind {
    const char *name;
    thread_body *body;
} kinds[] = {
    {"general", keep_general}, {"general-asleep", keep_general_asleep},
    {"flags", keep_flags},     {"xsave", keep_xsave},
    {"context", keep_context}, {"xsave-asleep", keep_xsave_asleep},
};
#define KINDS (int)(sizeof kinds / sizeof *kinds)
#define MAX_WORKERS 64

static struct worker workers[MAX_WORKERS];
static const char *worker_kinds[MAX_WORKERS];
static int worker_count;

static void start_kind(const struct kind *kind)
{
    struct worker *worker = &workers[worker_count];

    worker->index = worker_count;
    worker_kinds[worker_count++] = kind->name;
    start_thread(kind->body, worker);
}

static void start_named(const char *name)
{
    for (int i = 0; i < KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0 && worker_count < MAX_WORKERS) {
            start_kind(&kinds[i]);
            return;
        }
    errno = EINVAL;
    require(false, name);
}

static void report(FILE *out)
{
    fprintf(out, "\"kinds\":[");
    for (int i = 0; i < worker_count; i++)
        fprintf(out, "%s\"%s\"", i ? "," : "", worker_kinds[i]);
    fprintf(out, "],");
    report_workers(out, workers, worker_count);
    fprintf(out, ",\"xsave_components\":%lu,\"mismatches\":%ld,\"detail\":", components,
            mismatches);
    if (mismatches)
        fprintf(out, "\"%s\"", detail);
    else
        fprintf(out, "null");
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        start_named(argv[i]);
    for (int i = 0; argc == 1 && i < KINDS; i++)
        start_kind(&kinds[i]);
    return serve(report, NULL);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper [KIND]: a program that may keep a pointer into a patch, and never lets it rest: one thread
 * moves it from slot to slot all the time, by way of a vector register, and looks at what it points
 * to. "keep" has that thread store what text() returns, "drop" has it forget that again; "stain"
 * leaves it all over the thread's stack, in the frame of a call that has returned. "wait" makes a
 * child that says nothing at its end, "reap" reaps it.
 *
 *   heap, shared, dontfork, wipeonfork    the memory that the slots are in
 *   vast       4 MiB of shared memory
 *   hidden     memory that is PROT_NONE but while the pointer is moved, and moved rarely
 *   handler    no memory: the handler of SIGUSR2
 *
 * {"kept":"old","broken":0,"tids":[...],"progress":[...],"answers":[...],"answer":1}
 * kept: what the pointer points to, or null. broken: how often that was wrong.
 */
#define _GNU_SOURCE
#include "program.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS 512
#define LOOK_EVERY 64
#define STAINED 4096
#define PAGE 4096

PATCHABLE const char *text(void)
{
    return "old";
}

enum { NOTHING, KEEP, DROP, STAIN };

static struct worker worker;
static const char *volatile *slots;
static size_t slot;
static atomic_int order;
static char kept[16];
static atomic_long broken;
static bool in_handler, hidden;
static pid_t child;

/* Through xmm7, where it stays for a while: no general register and no memory has it then. */
static void move(const char *volatile *from, const char *volatile *to)
{
    int pause = 300;

    __asm__ volatile("movq (%1), %%xmm7\n\t"
                     "movq $0, (%1)\n"
                     "0:\tdecl %0\n\t"
                     "jnz 0b\n\t"
                     "movq %%xmm7, (%2)\n\t"
                     "pxor %%xmm7, %%xmm7"
                     : "+r"(pause)
                     : "r"(from), "r"(to)
                     : "xmm7", "memory", "cc");
}

static void look(void)
{
    if (slots[slot] && strcmp(slots[slot], kept) != 0)
        broken++;
}

static void set_handler(const char *text)
{
    struct sigaction action = {.sa_handler = (void (*)(int))text};

    require(sigaction(SIGUSR2, &action, NULL) == 0, "sigaction");
}

static __attribute__((noinline)) void stain(void)
{
    const char *frame[STAINED];

    for (int i = 0; i < STAINED; i++)
        frame[i] = text();
    __asm__ volatile("" ::"r"(frame) : "memory");
}

static __attribute__((noinline)) void obey(int what)
{
    const char *pointer = what == KEEP ? text() : NULL;

    if (what == STAIN) {
        stain();
        order = NOTHING;
        return;
    }
    snprintf(kept, sizeof kept, "%s", pointer ? pointer : "");
    if (in_handler)
        set_handler(pointer);
    else
        slots[slot] = pointer;
    order = NOTHING;
}

static void show(bool visible)
{
    if (hidden)
        require(mprotect((void *)slots, PAGE, visible ? PROT_READ | PROT_WRITE : PROT_NONE) == 0,
                "mprotect");
}

static void move_about(void *argument)
{
    for (unsigned round = 1;; round++) {
        size_t next = (slot + 7) % SLOTS;

        show(true);
        if (order)
            obey(order);
        move(&slots[slot], &slots[next]);
        slot = next;
        if (round % LOOK_EVERY == 0 || hidden)
            look();
        show(false);
        if (hidden)
            usleep(1000);
        work_done(argument);
    }
}

static void *map(size_t size, int flags)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

    require(memory != MAP_FAILED, "mmap");
    return memory;
}

static void *memory_of(const char *kind)
{
    void *memory;

    if (strcmp(kind, "heap") == 0 || strcmp(kind, "handler") == 0)
        return calloc(SLOTS, sizeof *slots);
    if (strcmp(kind, "shared") == 0)
        return map(PAGE, MAP_SHARED);
    if (strcmp(kind, "vast") == 0)
        return map(4 << 20, MAP_SHARED);
    memory = map(PAGE, MAP_PRIVATE);
    if (strcmp(kind, "dontfork") == 0)
        require(madvise(memory, PAGE, MADV_DONTFORK) == 0, "MADV_DONTFORK");
    else if (strcmp(kind, "wipeonfork") == 0)
        require(madvise(memory, PAGE, MADV_WIPEONFORK) == 0, "MADV_WIPEONFORK");
    else
        require(strcmp(kind, "hidden") == 0, kind);
    return memory;
}

/* A child whose end sends no signal, and that only __WCLONE or __WALL waits for. */
static void make_child(void)
{
    child = syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    require(child >= 0, "clone");
    if (child == 0)
        _exit(7);
}

static int reap_child(void)
{
    int status;

    return waitpid(child, &status, __WALL) == child ? WEXITSTATUS(status) : -1;
}

static void report(FILE *out)
{
    fprintf(out, *kept ? "\"kept\":\"%s\"," : "\"kept\":null,", kept);
    fprintf(out, "\"broken\":%ld,", broken);
    report_workers(out, &worker, 1);
}

static bool command(const char *line, FILE *out)
{
    if (strcmp(line, "wait") == 0) {
        make_child();
        fprintf(out, "\"child\":%d", child);
        return true;
    }
    if (strcmp(line, "reap") == 0) {
        fprintf(out, "\"status\":%d", reap_child());
        return true;
    }
    if (strcmp(line, "keep") == 0)
        order = KEEP;
    else if (strcmp(line, "drop") == 0)
        order = DROP;
    else if (strcmp(line, "stain") == 0)
        order = STAIN;
    else
        return false;
    while (order)
        usleep(100);
    report(out);
    return true;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "heap";

    in_handler = strcmp(kind, "handler") == 0;
    hidden = strcmp(kind, "hidden") == 0;
    slots = memory_of(kind);
    require(slots != NULL, "calloc");
    start_thread(move_about, &worker);
    return serve(report, command);
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * host: a program that gives a linked image memory and runs functions of it on request, so that
 * a test sees what they compute without any patching. One command a line, one line of answer:
 *
 *   map SIZE                 the address of new memory, readable and writable
 *   protect ADDRESS SIZE PROT
 *   call ADDRESS X           long f(long) on the main thread
 *   worker ADDRESS X         the same on a thread that was there before
 *   thread ADDRESS X         the same on a new thread
 *   text ADDRESS             const char *f(void)
 *   open PATH                dlopen
 *   state                    what the program's own code sees of its variables
 */
#define _GNU_SOURCE
#include "host.h"

#include <ctype.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef WITH_LIBRARY
#include <dlfcn.h>
extern int lent_value; /* copied into a program that isn't position-independent */
int lent(int x);
long address_of_lent(void)
{
    return (long)lent;
}
#endif

typedef long function(long);

int limit = 40;
const char *greeting = "hello from the host";
__thread int per_thread = 5;
__thread char padding[72] __attribute__((aligned(64)));
int (*chosen)(int) = compute;

NOINLINE int compute(int x)
{
    return x + 1;
}

NOINLINE int twice(int x)
{
    return 2 * x;
}

int is_compute(int (*function)(int))
{
    return function == compute;
}

static sem_t asked, answered;
static function *work;
static long argument, result;

static void *run_one(void *unused)
{
    (void)unused;
    result = work(argument);
    return NULL;
}

static void *wait_and_run(void *unused)
{
    per_thread = 50;
    for (;;) {
        sem_wait(&asked);
        run_one(unused);
        sem_post(&answered);
    }
}

static long on_worker(function *f, long x)
{
    work = f;
    argument = x;
    sem_post(&asked);
    sem_wait(&answered);
    return result;
}

static long on_thread(function *f, long x)
{
    pthread_t thread;
    work = f;
    argument = x;
    if (pthread_create(&thread, NULL, run_one, NULL))
        abort();
    pthread_join(thread, NULL);
    return result;
}

static void open_library(const char *path)
{
#ifdef WITH_LIBRARY
    void *library = dlopen(path, RTLD_NOW);
    puts(library ? "ok" : dlerror());
#else
    printf("no dlopen of %s here\n", path);
#endif
}

/* What patches of a static program can use of the C library is what the program uses. */
const void *const library_functions[] = {
    memcpy, memset, strlen, strchr, strcmp, toupper, getenv, malloc, free, fputs, snprintf,
};

static void state(void)
{
    printf("limit=%d per_thread=%d parse=%d render=%d", limit, per_thread, parse(1), render(1));
#ifdef WITH_LIBRARY
    printf(" lent_value=%d lent=%d", lent_value, lent(1));
#endif
    puts("");
}

static void command(const char *line)
{
    char path[4096];
    unsigned long address;
    long x, y;

    if (sscanf(line, "map %ld", &x) == 1)
        printf("%p\n",
               mmap(NULL, x, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    else if (sscanf(line, "protect %lx %ld %ld", &address, &x, &y) == 3)
        printf("%d\n", mprotect((void *)address, x, (int)y));
    else if (sscanf(line, "call %lx %ld", &address, &x) == 2)
        printf("%ld\n", ((function *)address)(x));
    else if (sscanf(line, "worker %lx %ld", &address, &x) == 2)
        printf("%ld\n", on_worker((function *)address, x));
    else if (sscanf(line, "thread %lx %ld", &address, &x) == 2)
        printf("%ld\n", on_thread((function *)address, x));
    else if (sscanf(line, "text %lx", &address) == 1)
        puts(((const char *(*)(void))address)());
    else if (sscanf(line, "open %4095s", path) == 1)
        open_library(path);
    else if (!strcmp(line, "state\n"))
        state();
    else
        puts("unknown command");
}

int main(void)
{
    char line[8192];
    pthread_t worker;

    sem_init(&asked, 0, 0);
    sem_init(&answered, 0, 0);
    if (pthread_create(&worker, NULL, wait_and_run, NULL))
        return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    padding[0] = 1;
    puts("ready");
    while (fgets(line, sizeof line, stdin))
        command(line);
    return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A thread that runs through functions with frames of every shape, for ever; the main thread waits
 * for stdin to end. What a frame looks like is up to the compiler and its options.
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
#define KEEP() __asm__ volatile("" ::: "memory")

static volatile long sink;
static long (*volatile pointer)(long);

NOINLINE static long leaf(long a)
{
    return a * 3 + 1;
}

NOINLINE static long red_zone(long a)
{
    volatile long local[4] = {a, a + 1, a + 2, a + 3};
    return local[a & 3];
}

NOINLINE static long saves_all(long a, long b, long c, long d, long e, long f)
{
    long g = leaf(a), h = leaf(b), i = leaf(c), j = leaf(d), k = leaf(e), l = leaf(f);
    return g * h + i * j + k * l + leaf(g + h + i + j + k + l);
}

NOINLINE static long many_arguments(long a, long b, long c, long d, long e, long f, long g, long h,
                                    long i)
{
    return saves_all(a + g, b + h, c + i, d, e, f);
}

NOINLINE static long variable_length(long n)
{
    long values[n];
    for (long i = 0; i < n; i++)
        values[i] = leaf(i);
    KEEP();
    return values[n - 1] + red_zone(values[0]);
}

NOINLINE static long allocates(long n)
{
    char *text = alloca(n);
    memset(text, 'x', n);
    KEEP();
    return leaf(text[n - 1]);
}

NOINLINE static long aligned(long a)
{
    _Alignas(64) volatile long values[8];
    for (int i = 0; i < 8; i++)
        values[i] = a + i;
    return leaf(values[3]) + many_arguments(values[0], 2, 3, 4, 5, 6, 7, 8, values[7]);
}

NOINLINE static long aligned_and_variable(long n)
{
    _Alignas(32) volatile long values[4] = {n, n, n, n};
    char *text = alloca(n);
    text[0] = (char)values[1];
    KEEP();
    return leaf(values[2]) + text[0];
}

NOINLINE static long big_frame(long a)
{
    volatile char page[20000];
    page[a & 0xfff] = (char)a;
    return leaf(page[a & 0xfff]);
}

NOINLINE static long early_exit(long a)
{
    if (a & 1)
        return a;
    long b = leaf(a), c = leaf(b);
    return saves_all(a, b, c, a, b, c);
}

NOINLINE static long tail_call(long a)
{
    return leaf(a + 1);
}

NOINLINE static long variadic(int count, ...)
{
    va_list list;
    long sum = 0;
    va_start(list, count);
    for (int i = 0; i < count; i++)
        sum += va_arg(list, long);
    va_end(list);
    return leaf(sum);
}

static int compare(const void *a, const void *b)
{
    return (int)(leaf(*(const int *)a) - leaf(*(const int *)b));
}

NOINLINE static long called_back(int a)
{
    int values[4] = {a, 3, 1, 2};
    qsort(values, 4, sizeof *values, compare);
    return values[0];
}

NOINLINE static long library(long a)
{
    char text[64];
    snprintf(text, sizeof text, "%ld %s", a, "words");
    return strlen(text);
}

NOINLINE static long recursive(long depth)
{
    return depth ? recursive(depth - 1) + 1 : leaf(0);
}

static void *run(void *unused)
{
    (void)unused;
    printf("READY pid=%d\n", getpid());
    fflush(stdout);
    for (long i = 1;; i++) {
        pointer = leaf;
        sink += pointer(i);
        sink += early_exit(i) + early_exit(i + 1) + tail_call(i) + red_zone(i);
        sink += variable_length(i % 7 + 1) + allocates(i % 100 + 1) + aligned(i);
        sink += aligned_and_variable(i % 20 + 1) + big_frame(i) + variadic(3, i, i, i);
        sink += recursive(3) + called_back((int)i) + library(i);
        sink += syscall(SYS_getppid);
    }
    return NULL;
}

int main(void)
{
    pthread_t thread;
    char byte;

    pthread_create(&thread, NULL, run, NULL);
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that sleep below a recursion through frames that are found in different ways. Some are
 * found by expressions, which depend on more; -DPLAIN leaves those out.
 */
#include <alloca.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NOIPA __attribute__((noipa))
#define THREADS 3

static pthread_barrier_t at_the_bottom;

NOIPA static void down(int left);

/* Its size is known only when it runs: found by rbp whatever the options. */
NOIPA static void variable(int left)
{
    char *room = alloca(left * 16 + 16);

    memset(room, left, left * 16 + 16);
    down(left - 1);
    __asm__ volatile("" ::"r"(room) : "memory");
}

#ifndef PLAIN
/* Realigned, with the address of its arguments kept in the frame: found by an expression. */
NOIPA static void aligned(int left, ...)
{
    char room[64] __attribute__((aligned(64))), *more = alloca(left * 16 + 16);
    va_list arguments;

    va_start(arguments, left);
    memset(room, va_arg(arguments, int), sizeof room);
    va_end(arguments);
    down(left - 1);
    __asm__ volatile("" ::"r"(room), "r"(more) : "memory");
}
#endif

NOIPA static void plain(int left)
{
    down(left - 1);
    __asm__ volatile("" ::"r"(left) : "rbx", "r12", "r13");
}

NOIPA static void down(int left)
{
    if (left <= 0) {
        pthread_barrier_wait(&at_the_bottom);
        pause();
    } else if (left % 3 == 0) {
        variable(left);
#ifndef PLAIN
    } else if (left % 3 == 1) {
        aligned(left, 1, 2, 3, 4, 5, 6, 7, 8);
#endif
    } else {
        plain(left);
    }
    __asm__ volatile("");
}

static void *go_down(void *argument)
{
    char byte[100];

    memset(byte, 0, sizeof byte);
    down(9);
    __asm__ volatile("" ::"r"(byte) : "memory");
    return argument;
}

int main(void)
{
    pthread_t threads[THREADS];

    pthread_barrier_init(&at_the_bottom, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, go_down, NULL);
    pthread_barrier_wait(&at_the_bottom);
    usleep(10000); /* for them to be in pause() */
    printf("READY pid=%d\n", getpid());
    fflush(stdout);
    pause();
    return 0;
}

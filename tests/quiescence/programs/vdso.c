/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A thread that asks for the time over and over, which is answered by code of the vdso. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static void *run(void *unused)
{
    struct timespec now;

    (void)unused;
    printf("READY pid=%d\n", getpid());
    fflush(stdout);
    for (;;)
        clock_gettime(CLOCK_MONOTONIC, &now);
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

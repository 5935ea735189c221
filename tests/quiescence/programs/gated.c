/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Calls the functions of gated.S over and over; the main thread waits for stdin to end. */
#include "gated.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define DECLARE(name) long name(long);
#define CALL(name) sum += name(sum);

GATED(DECLARE)

static volatile long sum;

static void *run(void *unused)
{
    (void)unused;
    for (;;) {
        GATED(CALL)
        usleep(100);
    }
    return NULL;
}

int main(void)
{
    pthread_t thread;
    char byte;

    pthread_create(&thread, NULL, run, NULL);
    printf("READY pid=%d\n", getpid());
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}

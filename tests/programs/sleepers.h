/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The threads of sleepers.c: each in one system call, again and again. */
#ifndef SLEEPERS_H
#define SLEEPERS_H

#include "program.h"

#include <errno.h>
#include <time.h>

struct sleeper;

/* A call with a timeout that nothing cuts short. 0: it ended as it should by its timeout; else
 * errno. */
typedef int timed_call(struct sleeper *sleeper, int timeout_ms);

/* A call without a timeout, ended by its feeder. 0: it got what the feeder gave; else errno. */
typedef int fed_call(struct sleeper *sleeper);
typedef void feed_call(struct sleeper *sleeper);

struct call {
    const char *name;
    bool (*available)(void);                 /* where a kernel may lack it; NULL: it is there */
    void (*set_up)(struct sleeper *sleeper); /* may be NULL */
    timed_call *timed;
    bool coarse; /* its timeout counts in ticks of the kernel, up to 10 ms */
    fed_call *fed;
    feed_call *feed; /* NULL: nothing ends the call, ever */
};

struct sleeper {
    const struct call *call;
    int timeout_ms;
    int fd[2];            /* from set_up, as the call needs them */
    void *object;         /* likewise */
    _Atomic int32_t word; /* of a futex */
    atomic_int tid;
    atomic_long loops, feeds, eintr, wrong;
    atomic_int wrong_errno;                /* the last one */
    _Atomic int64_t fed_at;                /* when it was last fed, ns */
    _Atomic int64_t early_ns, late_ns_max; /* largest deviations from the timeout, or from fed_at */
};

extern const struct call timed_calls[], fed_calls[]; /* each ends with a NULL name */

/* These two return what a system call's wrapper said as an errno, or 0. */
static inline int expect_errno(int result, int expected)
{
    if (result >= 0)
        return ENODATA; /* it succeeded, and should not have */
    return errno == expected ? 0 : errno;
}

static inline int expect_result(long result, long expected)
{
    if (result == expected)
        return 0;
    return result < 0 ? errno : ENODATA;
}

/* System V objects outlive their processes: a child that ends after this one removes them. */
void at_death(void (*remove)(int id), int id);

struct timespec in_ms(int ms);                     /* as a relative timeout */
struct timespec after_ms(clockid_t clock, int ms); /* as an absolute one */

#endif

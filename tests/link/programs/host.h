/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef HOST_H
#define HOST_H

/* A function that is called as its declaration says, whatever its callers are known to pass. */
#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noipa))
#endif

extern int limit;
extern const char *greeting;
extern __thread int per_thread;
extern int (*chosen)(int);

int compute(int x);
int twice(int x);
int parse(int x);
int render(int x);
int is_compute(int (*function)(int));

#endif

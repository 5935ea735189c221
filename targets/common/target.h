/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the sample servers have in common: where they listen, how they say that they are ready,
 * how they are told to stop, and how a function that a patch replaces is marked.
 *
 * Every server listens on 127.0.0.1 only, takes `--port 0` (the kernel chooses), prints one
 * line `READY port=N pid=P ...` when connections will be accepted, ignores SIGPIPE and leaves
 * with status 0 on SIGTERM.
 */
#ifndef TARGET_H
#define TARGET_H

#include <signal.h>
#include <stdint.h>

/*
 * PATCHABLE marks the functions that the patches beside each server replace or call, so that each
 * is a symbol with a body of its own, and no others: the rest is what the optimiser makes of it.
 *
 * `noinline` is not enough with gcc: it may still clone such a function for one caller
 * (.constprop, .isra, .part), or let a caller keep a value in a caller-saved register because it
 * saw that this body leaves it alone (-fipa-ra), which another body need not do. `noipa`
 * forbids all that. clang does none of it to a noinline function and does not know `noipa`.
 * -DPATCHABLE= builds the servers without: then `make check` says what is no longer there.
 */
#if defined(PATCHABLE)
#elif defined(__clang__)
#define PATCHABLE __attribute__((noinline))
#else
#define PATCHABLE __attribute__((noipa, noinline))
#endif

/* Set by SIGTERM or SIGINT, which are delivered only inside a wait with `while_waiting`. */
extern volatile sig_atomic_t stopping;
extern sigset_t while_waiting; /* the signal mask for epoll_pwait() and its kin */

void expect_stop_signals(void); /* SIGTERM and SIGINT set `stopping`, SIGPIPE is ignored */

int listen_on_loopback(uint16_t *port); /* non-blocking; *port 0: the kernel's choice is stored */
void set_nonblocking(int fd);
int64_t now_ms(void); /* monotonic */

long number_option(const char *name, const char *text, long least, long most);
void say(const char *format, ...) __attribute__((format(printf, 1, 2))); /* a line on stdout */
_Noreturn void die(const char *what);   /* "what: strerror(errno)", status 1 */
_Noreturn void usage(const char *text); /* status 2 */

#endif

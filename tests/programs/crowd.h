/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What crowd.c, its functions, and their replacements have in common. */
#ifndef CROWD_H
#define CROWD_H

#include "program.h"

#define DEPTH 5
#define ROUNDS_A_CALL 20

enum mode { SPINNING, SLEEPING, NESTED, RECURSIVE, LOCKING, SIGNALS, FILTERED, ENDLESS_ROUNDS, MODES };
extern enum mode mode;

void spend(long us);
void take_lock(void);
void give_lock(void);
void note(struct worker *worker, int version, int inner_version);

/* Ten times its version, and that of inner() where it calls it, else its own. */
int work(struct worker *worker, int mode, long us);
int inner(long us);
void pause_point(struct worker *worker);

#define DEFINE_CROWD(VERSION, KIND)                                                                \
    KIND int inner(long us)                                                                        \
    {                                                                                              \
        spend(us);                                                                                 \
        return VERSION;                                                                            \
    }                                                                                              \
                                                                                                   \
    KIND int work(struct worker *worker, int mode, long us)                                        \
    {                                                                                              \
        int found = VERSION;                                                                       \
                                                                                                   \
        if (mode == ENDLESS_ROUNDS) {                                                              \
            for (;;) {                                                                             \
                found = inner(us);                                                                 \
                note(worker, found, found);                                                        \
                pause_point(worker);                                                               \
            }                                                                                      \
        } else if (mode == NESTED) {                                                               \
            for (int i = 0; i < ROUNDS_A_CALL; i++) {                                              \
                int other = inner(us / ROUNDS_A_CALL);                                             \
                                                                                                   \
                found = other == VERSION ? found : other;                                          \
            }                                                                                      \
        } else if (mode >= RECURSIVE * 100) {                                                      \
            spend(us);                                                                             \
            if (mode > RECURSIVE * 100)                                                            \
                found = work(worker, mode - 1, us) % 10;                                           \
        } else if (mode == RECURSIVE) {                                                            \
            found = work(worker, RECURSIVE * 100 + DEPTH, us / DEPTH) % 10;                        \
        } else {                                                                                   \
            if (mode == LOCKING)                                                                   \
                take_lock();                                                                       \
            spend(us);                                                                             \
            if (mode == LOCKING)                                                                   \
                give_lock();                                                                       \
        }                                                                                          \
        return VERSION * 10 + found;                                                               \
    }

#endif

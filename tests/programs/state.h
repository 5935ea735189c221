/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What state.c keeps, in its old layout and in that of patches/state.c. */
#ifndef STATE_H
#define STATE_H

#define BUCKETS 64

struct entry_v1 {
    int key;
    long value;
    struct entry_v1 *next;
};

/* Grown and reordered: whoever takes one for the other is soon found out. */
struct entry_v2 {
    struct entry_v2 *next;
    long hits;
    long value;
    int key;
};

#endif

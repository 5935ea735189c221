/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Functions with copies inlined three deep, and a static of the same name as that of two.c. */
/* The first line number is one of this file: otherwise addr2line takes another for it. */
int first_of_one(int a)
{
    return a + 1;
}

#include "outermost.h"

volatile int memory[64];

int two(int a);

NOINLINE static int same(int a)
{
    return outermost(a) + memory[6];
}

NOINLINE static int recursive(int a)
{
    if (a <= 0)
        return innermost(a);
    return recursive(a - 1) + same(a);
}

struct point {
    int x, y;
    union {
        long a;
        struct { char b, c; } inner;
    } more;
};

NOINLINE int moved(struct point *point, int (*function)(int))
{
    static int counter;
    point->x += outermost(point->y);
    point->more.inner.b = counter++;
    return function(point->x);
}

NOINLINE int nobody_calls(int a)
{
    return middle(a, 1);
}

int main(int argc, char **argv)
{
    struct point point = {argc, argc, {0}};
    (void)argv;
    if (__builtin_expect(memory[7] > 100, 0)) {
        memory[8] = middle(memory[9], 3);
        __builtin_abort();
    }
    return same(argc) + two(argc) + moved(&point, same) + recursive(argc);
}

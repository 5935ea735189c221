/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "host.h"

static int scale(int x) /* another one is in render.c */
{
    return x * 10;
}

static volatile int lines = 3; /* in this file only */

NOINLINE static int only_in_parse(int x)
{
    static volatile int counter = 100; /* `counter.0`, or such */
    return x + ++counter;
}

NOINLINE static int strfry(int x) /* libc has a function of that name */
{
    return x * 100;
}

int parse(int x)
{
    int (*volatile scale_it)(int) = scale;
    volatile int zero = 0; /* else clang compiles only_in_parse() for 0 alone */
    return scale_it(x) + lines + only_in_parse(zero) + strfry(zero);
}

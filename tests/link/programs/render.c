/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "host.h"

static int scale(int x) /* another one is in parse.c */
{
    return x * 1000;
}

static __thread volatile int column = 9;

int render(int x)
{
    int (*volatile scale_it)(int) = scale;
    return scale_it(x) + column;
}

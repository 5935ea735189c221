/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A static of the same name as that of one.c. */
/* The first line number is one of this file: otherwise addr2line takes another for it. */
int first_of_two(int a)
{
    return a + 2;
}

#include "outermost.h"

NOINLINE static int same(int a)
{
    return outermost(a + 1) - memory[10];
}

int two(int a)
{
    return same(a) + innermost(a) + outermost(same(a));
}

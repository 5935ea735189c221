/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 5 only where the constructors ran, each once, in order of priority, before the first call. */
#include <hotpatch.h>

static volatile int prepared = 1;

__attribute__((constructor(101))) static void first(void)
{
    prepared = prepared * 2;
}

__attribute__((constructor(102))) static void second(void)
{
    prepared = prepared + 3;
}

int answer(void)
{
    return prepared;
}
HOTPATCH_REPLACE(answer);

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For tls.c: in thread n, answer() becomes n + 10 n + 100 n, and in_program goes up and down again. Compiled for
 * each model of thread-local storage; -DSTATIC leaves out what has no static offset, the opened library's.
 */
#include "../tls.h"
#include <hotpatch.h>

int answer(void)
{
    long sum;

    in_program += 1000;
    sum = in_program + in_linked;
#ifndef STATIC
    sum += in_opened;
#endif
    in_program -= 1000;
    return (int)sum - 1000;
}
HOTPATCH_REPLACE(answer);

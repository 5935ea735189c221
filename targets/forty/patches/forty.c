// SPDX-License-Identifier: MIT
/*
 * All forty functions, each returning 2; the sum becomes 80.
 *
 * transaction() is replaced by one that does the same, so that the patch commits between two
 * transactions and not within one: 41 functions.
 */
#include "../forty.h"

#include <hotpatch.h>

#define DEFINE(n)                                                                                  \
    int f##n(void)                                                                                 \
    {                                                                                              \
        return 2;                                                                                  \
    }                                                                                              \
    HOTPATCH_REPLACE(f##n);
FORTY(DEFINE)

int transaction(void)
{
    int sum = 0;
#define ADD(n) sum += f##n();
    FORTY(ADD)
    return sum;
}
HOTPATCH_REPLACE(transaction);

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For one function of entries.S, NAME: the original, through its displaced instructions, and one more. */
#include <hotpatch.h>

long NAME(long a, long b, long c, long d)
{
    return HOTPATCH_ORIGINAL(NAME)(a, b, c, d) + 1;
}
HOTPATCH_REPLACE(NAME);

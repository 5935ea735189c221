/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For inside.c: all that it can be inside of. compute() and sleep_in_entry() return 2, at once. */
#include <hotpatch.h>

int compute(int depth)
{
    (void)depth;
    return 2;
}
HOTPATCH_REPLACE(compute);

#ifdef ALL
long sleep_in_entry(void)
{
    return 2;
}
HOTPATCH_REPLACE(sleep_in_entry);

void serve_forever(void)
{
}
HOTPATCH_REPLACE(serve_forever);
#endif

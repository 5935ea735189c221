/* SPDX-License-Identifier: MIT */
/*
 * For Debian's redis-server: a patch whose transfer allocates 10,000 objects of 1,000 bytes from the
 * server's own allocator and writes them. bench/rehearsal.py
 * rehearses it.
 */
#include <hotpatch.h>

enum { OBJECTS = 10000, SIZE = 1000 };

void pingCommand(void *client)
{
    HOTPATCH_ORIGINAL(pingCommand)(client);
}
HOTPATCH_REPLACE(pingCommand);

static int allocate(void)
{
    hotpatch_each (i, OBJECTS) {
        char *object = hotpatch_alloc(SIZE);
        for (int at = 0; at < SIZE; at++)
            object[at] = (char)i;
    }
    hotpatch_say("%d objects", OBJECTS);
    return 0;
}
HOTPATCH_TRANSFER(allocate);

static int nothing(void)
{
    return 0;
}
HOTPATCH_REVERSE(nothing);

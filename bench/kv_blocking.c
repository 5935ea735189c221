/* SPDX-License-Identifier: MIT */
/*
 * For the key-value server: INCR of the key "asleep" or "running" never ends, and keeps its worker
 * in the code of cmd_incr, asleep or not. bench/waiting.py then applies another patch of it.
 */
#include "../targets/kv/kv.h"

#include <hotpatch.h>

#include <string.h>
#include <unistd.h>

void cmd_incr(const struct command *command, struct reply *reply)
{
    for (;;) {
        if (strcmp(command->key, "asleep") == 0)
            pause();
        else if (strcmp(command->key, "running") != 0)
            break;
    }
    HOTPATCH_ORIGINAL(cmd_incr)(command, reply);
}
HOTPATCH_REPLACE(cmd_incr);

// SPDX-License-Identifier: MIT
/*
 * kv/1 to kv/2: INCR of a value that is no number is an error, and leaves the value alone.
 * No command uses both functions, so each answer is wholly of one version.
 */
#include "../kv.h"

#include <hotpatch.h>

#include <errno.h>
#include <stdlib.h>

int server_version(void)
{
    return 2;
}
HOTPATCH_REPLACE(server_version);

/* The whole text as a number. */
static bool parse_number(const char *text, long long *number)
{
    char *rest;
    errno = 0;
    *number = strtoll(text, &rest, 10);
    return !errno && rest != text && !*rest;
}

void cmd_incr(const struct command *command, struct reply *reply)
{
    char text[32];
    long long value = 0;
    long long by = 1;
    struct slot slot = slot_lock(command->key);
    if ((*command->rest && !parse_number(command->rest, &by)) ||
        (*slot.link && !parse_number((*slot.link)->value, &value)) ||
        __builtin_add_overflow(value, by, &value)) {
        slot_unlock(slot);
        reply_line(reply, "ERR not a number");
        return;
    }
    snprintf(text, sizeof(text), "%lld", value);
    bool stored = slot_put(slot, command->key, text);
    slot_unlock(slot);
    reply_line(reply, stored ? "VALUE %s" : "ERR full", text);
}
HOTPATCH_REPLACE(cmd_incr);

// SPDX-License-Identifier: GPL-2.0-or-later
/* kv/2: the commands. New: INCR leaves a value that is no number alone, and says so. */
#define _GNU_SOURCE
#include "../common/target.h"
#include "kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

PATCHABLE int server_version(void)
{
    return 2;
}

static void cmd_ping(const struct command *command, struct reply *reply)
{
    (void)command;
    reply_line(reply, "PONG");
}

static void cmd_version(const struct command *command, struct reply *reply)
{
    (void)command;
    reply_line(reply, "VERSION kv/%d", server_version());
}

static void cmd_set(const struct command *command, struct reply *reply)
{
    struct slot slot = slot_lock(command->key);
    bool stored = slot_put(slot, command->key, command->rest);
    slot_unlock(slot);
    reply_line(reply, stored ? "OK" : "ERR full");
}

static void cmd_get(const struct command *command, struct reply *reply)
{
    struct slot slot = slot_lock(command->key);
    if (*slot.link)
        reply_line(reply, "VALUE %s", (*slot.link)->value);
    else
        reply_line(reply, "NONE");
    slot_unlock(slot);
}

static void cmd_del(const struct command *command, struct reply *reply)
{
    struct slot slot = slot_lock(command->key);
    bool found = *slot.link;
    if (found)
        slot_remove(slot);
    slot_unlock(slot);
    reply_line(reply, found ? "OK" : "NONE");
}

/* The whole text as a number. */
static bool parse_number(const char *text, long long *number)
{
    char *rest;
    errno = 0;
    *number = strtoll(text, &rest, 10);
    return !errno && rest != text && !*rest;
}

static PATCHABLE void cmd_incr(const struct command *command, struct reply *reply)
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

static void cmd_stats(const struct command *command, struct reply *reply)
{
    (void)command;
    reply_line(reply, "STAT version %d", server_version());
    reply_line(reply, "STAT keys %lu", table_keys());
    reply_line(reply, "STAT connections %lu", server_connections());
    reply_workers(reply);
    reply_line(reply, "END");
}

static const struct {
    const char *name;
    bool keyed; /* needs a key */
    void (*run)(const struct command *command, struct reply *reply);
} commands[] = {
    {"GET", true, cmd_get},    {"SET", true, cmd_set},     {"DEL", true, cmd_del},
    {"INCR", true, cmd_incr},  {"PING", false, cmd_ping},  {"VERSION", false, cmd_version},
    {"STATS", false, cmd_stats},
};

void execute(const struct command *command, struct reply *reply)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(command->name, commands[i].name))
            continue;
        if (commands[i].keyed && !*command->key)
            reply_line(reply, "ERR no key");
        else
            commands[i].run(command, reply);
        return;
    }
    reply_line(reply, "ERR unknown command");
}

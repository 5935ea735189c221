// SPDX-License-Identifier: GPL-2.0-or-later
/* kv/1: the commands. */
#define _GNU_SOURCE
#include "../common/target.h"
#include "kv.h"

#include <stdlib.h>
#include <string.h>

PATCHABLE int server_version(void)
{
    return 1;
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

static PATCHABLE void cmd_incr(const struct command *command, struct reply *reply)
{
    char text[32];
    long long by = *command->rest ? atoll(command->rest) : 1;
    struct slot slot = slot_lock(command->key);
    long long sum = *slot.link ? atoll((*slot.link)->value) : 0;
    __builtin_add_overflow(sum, by, &sum); /* wraps around */
    snprintf(text, sizeof(text), "%lld", sum);
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

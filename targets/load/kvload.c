// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Load for the key-value server (load.h has the options).
 *
 * Each connection writes keys of its own, and reads back what it wrote. Every eighth question is a
 * probe that asks for the version before and after an INCR of a word: where both are the same, INCR
 * must do what that version does. (It tells nothing while the version changes between the two.)
 */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEYS = 16, KEY_SIZE = 64, LONGEST_VALUE = 1000 };
enum { INCR_FIXED_IN = 2 }; /* version of the server */

struct own {
    int generation;        /* one more for every lost connection: what it wrote is not relied on */
    long counters[KEYS];
    uint64_t values[KEYS]; /* the turn in which it was set */
    bool probe;
    int lines;             /* in the answer */
    char expected[ASK_SIZE];
};

/* ---- Asking ---- */

static const char *key_name(const struct client *client, char kind, int index, char *name)
{
    const struct own *own = client->own;
    snprintf(name, KEY_SIZE, "%d.%d.%d.%c%d", getpid(), client->id, own->generation, kind, index);
    return name;
}

/* The value of a turn: its length and every letter follow from the number. */
static const char *value_of(uint64_t turn, char *value)
{
    int length = turn * 37 % LONGEST_VALUE + 1;
    for (int i = 0; i < length; i++)
        value[i] = 'a' + (turn + i * 7) % 26;
    value[length] = '\0';
    return value;
}

static size_t ask_probe(struct client *client, char *question, size_t room)
{
    struct own *own = client->own;
    char name[KEY_SIZE];
    own->probe = true;
    own->lines = 5;
    key_name(client, 'p', 0, name);
    return snprintf(question, room, "SET %s word\nVERSION\nINCR %s\nVERSION\nGET %s\n", name, name,
                    name);
}

static size_t ask(struct client *client, char *question, size_t room)
{
    struct own *own = client->own;
    int index = client->turn / 8 % KEYS;
    char key[KEY_SIZE], counter[KEY_SIZE], value[LONGEST_VALUE + 1];
    size_t size = sizeof(own->expected);
    key_name(client, 'k', index, key);
    key_name(client, 'c', index, counter);
    own->probe = false;
    own->lines = 1;

    switch (client->turn % 8) {
    case 0:
        own->values[index] = client->turn;
        snprintf(own->expected, size, "OK\n");
        return snprintf(question, room, "SET %s %s\n", key, value_of(client->turn, value));
    case 1:
        snprintf(own->expected, size, "VALUE %s\n", value_of(own->values[index], value));
        return snprintf(question, room, "GET %s\n", key);
    case 2:
        snprintf(own->expected, size, "VALUE %ld\n", ++own->counters[index]);
        return snprintf(question, room, "INCR %s\n", counter);
    case 3: /* several at once */
        own->lines = 3;
        snprintf(own->expected, size, "VALUE %s\nPONG\nVALUE %ld\n",
                 value_of(own->values[index], value), own->counters[index]);
        return snprintf(question, room, "GET %s\nPING\nGET %s\n", key, counter);
    case 4:
        return ask_probe(client, question, room);
    case 5:
        own->counters[index] += client->turn;
        snprintf(own->expected, size, "VALUE %ld\n", own->counters[index]);
        return snprintf(question, room, "INCR %s %lu\n", counter, client->turn);
    case 6:
        snprintf(own->expected, size, "OK\n");
        return snprintf(question, room, "DEL %s\n", key);
    default:
        snprintf(own->expected, size, "NONE\n");
        return snprintf(question, room, "GET %s\n", key);
    }
}

/* The connection may not begin in the middle: a GET would expect a SET that was never made. */
static void lost(struct client *client)
{
    struct own *own = client->own;
    own->generation++;
    memset(own->counters, 0, sizeof(own->counters));
    client->turn = (client->turn + 7) / 8 * 8;
}

/* ---- Judging ---- */

/* The size of the first `lines` lines, 0 where they are not all there. */
static size_t size_of_lines(const char *text, size_t size, int lines)
{
    const char *end = text;
    while (lines-- > 0) {
        end = memchr(end, '\n', text + size - end);
        if (!end)
            return 0;
        end++;
    }
    return end - text;
}

static void judge_probe(struct client *client, const char *answer, size_t size)
{
    char text[256], incr[64], got[64];
    int before, after;
    snprintf(text, sizeof(text), "%.*s", (int)size, answer);
    if (sscanf(text, "OK\nVERSION kv/%d\n%63[^\n]\nVERSION kv/%d\n%63[^\n]\n", &before, incr, &after,
               got) != 4) {
        complain(client, "this answers no probe: %s", text);
        return;
    }
    count_version(client, before);
    count_version(client, after);
    bool destroys = !strcmp(incr, "VALUE 1") && !strcmp(got, "VALUE 1");
    bool refuses = !strcmp(incr, "ERR not a number") && !strcmp(got, "VALUE word");
    bool right = before != after ? destroys || refuses : before < INCR_FIXED_IN ? destroys : refuses;
    if (!right)
        complain(client, "kv/%d to kv/%d: INCR \"%s\", then \"%s\"", before, after, incr, got);
}

static ssize_t judge(struct client *client, const char *answer, size_t size)
{
    const struct own *own = client->own;
    size_t used = size_of_lines(answer, size, own->lines);
    if (used == 0)
        return 0;
    if (own->probe)
        judge_probe(client, answer, used);
    else if (used != strlen(own->expected) || memcmp(answer, own->expected, used))
        complain(client, "\"%.*s\", not \"%.*s\"", (int)(used - 1 < 60 ? used - 1 : 60), answer, 60,
                 own->expected);
    return used;
}

int main(int argc, char **argv)
{
    static const struct protocol kv = {
        .own_size = sizeof(struct own), .ask = ask, .judge = judge, .lost = lost};
    return load_main(&kv, argc, argv);
}

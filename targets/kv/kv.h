/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A key-value server: one thread accepts, N workers serve, each with an epoll of its own.
 *
 *   server.c       main, the acceptor, the workers, connections, lines
 *   table.c        the hash table and its locks
 *   v1.c ... v3.c  the commands: the part that has versions
 *
 * v1 -> v2  INCR of a value that is no number is an error; v1 took it for 0 and destroyed it
 * v2 -> v3  keys can expire (EXPIRE, TTL), for which an entry grows
 *
 * A request is a line, and so is its answer, but for STATS:
 *
 *   PING             PONG
 *   VERSION          VERSION kv/N
 *   SET key value    OK                     the value is the rest of the line
 *   GET key          VALUE value, or NONE
 *   DEL key          OK, or NONE
 *   INCR key [by]    VALUE number, or ERR   a missing key counts as 0
 *   STATS            STAT name value ... END
 *   EXPIRE key s     OK, or NONE            v3
 *   TTL key          VALUE seconds (-1: for ever), or NONE   v3
 *   anything else    ERR why
 */
#ifndef KV_H
#define KV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    BUCKETS = 4096,
    STRIPES = 64, /* locks; one for every STRIPES-th bucket */
    LINE_SIZE = 8192,
    REPLY_SIZE = 65536,
    REPLY_ROOM = 32768, /* what the longest answer may need (STATS) */
    MOST_KEYS = 2000000,
    MOST_THREADS = 256,
};

#if KV_VERSION < 3

struct entry {
    struct entry *next;
    char *key;
    char *value;
};

#else

struct entry {
    struct entry *next;
    int64_t expires; /* ms, 0: never */
    char *value;
    char *key;
    uint64_t changes; /* of the value, since the key was made */
};

#endif

/* ---- table.c ---- */

/* Where a key is, or would be. Locked: nobody else sees the key's bucket until slot_unlock(). */
struct slot {
    pthread_mutex_t *lock;
    struct entry **link; /* *link is NULL where there is no such key */
};

struct slot slot_lock(const char *key);
void slot_unlock(struct slot slot);
bool slot_put(struct slot slot, const char *key, const char *value); /* false: the table is full */
void slot_remove(struct slot slot);
uint64_t table_keys(void);
#if KV_VERSION >= 3
bool expired(const struct entry *entry);
#endif

/* ---- server.c ---- */

struct reply {
    size_t used;
    char text[REPLY_SIZE];
};

void reply_line(struct reply *reply, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void reply_workers(struct reply *reply); /* a STAT line for each: did every thread go on? */
uint64_t server_connections(void);

/* ---- v1.c ... v3.c ---- */

/* A line, taken apart; what is missing is "". */
struct command {
    const char *name, *key, *rest;
};

int server_version(void);
void execute(const struct command *command, struct reply *reply);

#endif

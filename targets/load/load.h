/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A load generator: several connections to a server on 127.0.0.1, a constant rate of requests
 * over all of them, and a full check of every answer.
 *
 *   load.c      options, connections, pace: one thread, one epoll
 *   report.c    what is counted, and the line of JSON at the end
 *   webload.c   HTTP requests, and what their answers must be
 *   kvload.c    the same for the key-value server
 *
 * Output: `READY connections=N pid=P` once every connection has had its first answer; a PROGRESS
 * line on SIGUSR1, and every second with --progress; a JSON object as the last line. The run ends
 * after --seconds, after --requests, or on SIGTERM. Exit status 0 means that no answer was wrong and
 * no connection was lost, 1 that some were, 2 wrong usage.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { ASK_SIZE = 4096, HIGHEST_VERSION = 63 };

struct client {
    int id;
    enum { DOWN, CONNECTING, IDLE, WAITING } state;
    int fd;
    int64_t due;     /* us: when to connect again (DOWN) or to ask again (IDLE) */
    int64_t since;   /* us: when the question was sent (WAITING) or the connection begun */
    uint64_t turn;   /* questions asked so far, over all its connections */
    bool answered;   /* has had an answer, ever */
    size_t ask_size, ask_sent;
    char ask[ASK_SIZE];
    char *answer; /* what came so far */
    size_t answer_size, answer_room;
    void *own; /* the protocol's */
};

/* What the two generators differ in. A question may be several requests in one. */
struct protocol {
    size_t own_size; /* of what `own` points to, zeroed */
    size_t (*ask)(struct client *client, char *question, size_t room);
    /* The size of the answer, when all of it is there; 0: not yet; MALFORMED: it can't be told.
       Whatever is wrong is said with complain(). */
    ssize_t (*judge)(struct client *client, const char *answer, size_t size);
    void (*lost)(struct client *client); /* its connection ended; or NULL */
};

enum { MALFORMED = -1 };

int load_main(const struct protocol *protocol, int argc, char **argv);

/* report.c */
extern struct counters {
    uint64_t requests;    /* answered, rightly or not */
    uint64_t failures;    /* wrong, malformed or missing (--timeout-ms) answers */
    uint64_t dropped;     /* connections that the server ended */
    uint64_t reconnected; /* ... that were made again */
    uint64_t refused;     /* attempts to do so that failed */
    uint64_t slow;        /* answers later than --slow-ms */
    uint64_t versions[HIGHEST_VERSION + 1];
} counters;

void complain(const struct client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void allow_versions(const char *list);                     /* "1,2"; never called: all */
void count_version(const struct client *client, long version); /* complains where it is not allowed */
void count_latency(int64_t us);
void report_progress(void);
void report_json(int64_t elapsed_ms);

#endif

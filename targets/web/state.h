/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of the web server: its connections, and the files it holds open.
 *
 * This is the one header that differs between versions. Both shapes stand side by side, since
 * their difference is what an update of a running v3 to v4 has to bridge: fields that moved,
 * fields that are new, and a table whose every entry belongs in another bucket.
 */
#ifndef STATE_H
#define STATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    CONNECTIONS = 4096, /* file descriptors from here on are turned away */
    REQUEST_SIZE = 8192, /* a longer request head is refused */
    ANSWER_SIZE = 8192,  /* an answer's head, and a body that is not a file */
    PATH_SIZE = 512,
    ETAG_SIZE = 48,
};

#if WEB_VERSION < 4

enum { CACHE_BUCKETS = 64 };

/* A file held open. It outlives its place in the table while an answer is sent from it. */
struct cached_file {
    struct cached_file *next; /* in the same bucket */
    char path[PATH_SIZE];     /* relative to the root */
    int fd;
    unsigned users; /* the table, and every answer under way */
    off_t size;
    int64_t mtime_ns;
    int64_t checked; /* ms: when we last saw that the name still means this file */
};

struct connection {
    int fd;
    uint32_t interest; /* what epoll is asked to report */
    int64_t active;    /* ms: the last traffic */
    bool last_answer;  /* the connection ends after this answer */
    bool lingering;    /* all was sent: reading until the peer closes too */
    size_t received;
    char request[REQUEST_SIZE];
    size_t answer_size, answer_sent;
    char answer[ANSWER_SIZE];
    struct cached_file *file; /* the rest of the answer, or NULL */
    off_t offset, end;        /* what is left to send of it */
};

#else

enum { CACHE_BUCKETS = 256 };

/* v4: keeps its hash and its entity tag, which were computed anew for every request. */
struct cached_file {
    uint64_t hash;
    struct cached_file *next;
    int fd;
    unsigned users;
    int64_t checked;
    int64_t mtime_ns;
    off_t size;
    uint64_t hits;
    char etag[ETAG_SIZE];
    char path[PATH_SIZE];
};

/* v4: knows its age and what it was used for; the small fields come first, in one cache line. */
struct connection {
    int fd;
    uint32_t interest;
    bool last_answer;
    bool lingering;
    struct cached_file *file;
    off_t offset, end;
    int64_t active;
    int64_t opened;    /* ms */
    uint64_t requests; /* answered here */
    uint64_t bytes;    /* sent here */
    size_t received;
    size_t answer_size, answer_sent;
    char request[REQUEST_SIZE];
    char answer[ANSWER_SIZE];
};

#endif

extern struct connection *connections[CONNECTIONS]; /* by file descriptor */
extern struct cached_file *cache[CACHE_BUCKETS];

extern struct statistics {
    uint64_t requests;
    uint64_t by_class[6]; /* answers 1xx to 5xx */
    uint64_t bytes;       /* sent, heads included */
    uint64_t accepted;    /* connections */
    uint64_t open;        /* connections */
    uint64_t cached;      /* files in the cache */
    uint64_t cache_hits;
    uint64_t wakeups;     /* returns from epoll_wait */
    uint64_t interrupted; /* of these with EINTR: nothing but a signal to stop should cause it */
} statistics;

#endif

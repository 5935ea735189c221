/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A static-file HTTP/1.1 server in one thread, after the FlashEd server of the literature on
 * dynamic updating.
 *
 *   loop.c         main, the event loop; knows file descriptors only
 *   connection.c   a connection: receiving, sending, keep-alive
 *   cache.c        the files held open
 *   http.c         request heads, dates, MIME types: text in, text out
 *   answer.c       putting an answer into a connection
 *   v1.c ... v4.c  what a request is answered: the part that has versions
 *   state.h        the data; the other part that has versions
 *
 * v1 -> v2  fixes `Range: bytes=-N`, which gave one byte too many
 * v2 -> v3  adds entity tags: ETag, If-None-Match, 304
 * v3 -> v4  changes the data structures, and closes a hole: `/..%2fsecret` left the root
 */
#ifndef WEB_H
#define WEB_H

#include "state.h"

/* loop.c */
void watch(int fd, uint32_t events);   /* from now on report these events of a new fd */
void rewatch(int fd, uint32_t events); /* ... of one that is watched already */

/* connection.c */
void connection_open(int fd);
void connection_ready(int fd); /* something can be read from it or written to it */
void connections_sweep(void);  /* close those that have been idle for too long */

/* cache.c */
void cache_open(const char *root);
struct cached_file *cache_get(const char *path); /* takes a reference; NULL with errno */
void cache_put(struct cached_file *file);        /* gives it back */

/* http.c */
enum method { GET, HEAD, OTHER_METHOD };

/* A request head as it came; the strings point into it. */
struct request {
    enum method method;
    const char *target; /* as sent: not decoded, without the query; ends at target_size */
    size_t target_size;
    const char *headers; /* the lines after the first */
    size_t headers_size;
    bool keep_alive;
};

/* What a Range header comes to, for a file of a certain size. */
struct range {
    off_t first, end; /* end: behind the last byte */
};
enum range_verdict { RANGE_IGNORED, RANGE_SATISFIED, RANGE_OUTSIDE };

size_t request_size(const char *data, size_t size); /* of the head at the start, 0: incomplete */
bool request_parse(const char *head, size_t size, struct request *request);
bool find_header(const struct request *request, const char *name, char *value, size_t size);
bool url_decode(const char *text, size_t size, char *out, size_t out_size);
bool climbs(const char *path, size_t size); /* one of its segments is ".." */
const char *mime_type(const char *path);
const char *reason_phrase(int status);
const char *http_date(void);

/* answer.c */
void send_head(struct connection *c, int status, const char *type, off_t length, const char *extra);
void send_text(struct connection *c, const struct request *request, int status, const char *text,
               const char *extra);
void send_error(struct connection *c, const struct request *request, int status, const char *extra);
size_t format_statistics(char *text, size_t size);
enum range_verdict wanted_range(const struct request *request, off_t size, struct range *range);
void send_file(struct connection *c, const struct request *request, struct cached_file *file,
               struct range range);

/* v1.c ... v4.c */
int server_version(void);
enum range_verdict parse_range(const char *text, off_t size, struct range *range);
void handle_request(struct connection *c, const char *head, size_t size);
uint64_t cache_hash(const char *path);
#if WEB_VERSION >= 4
void entity_tag(const struct cached_file *file, char *tag);
#endif

#endif

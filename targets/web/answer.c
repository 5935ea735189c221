// SPDX-License-Identifier: GPL-2.0-or-later
/* Putting an answer into a connection: a head, a short text, a part of a file. */
#include "web.h"

#include <stdio.h>
#include <string.h>

/* length -1: the answer has no body and says nothing about one.
   extra: header lines, each with its line end. */
void send_head(struct connection *c, int status, const char *type, off_t length, const char *extra)
{
    char content[128] = "";
    if (length >= 0)
        snprintf(content, sizeof(content), "Content-Type: %s\r\nContent-Length: %lld\r\n", type,
                 (long long)length);
    c->answer_size = snprintf(c->answer, sizeof(c->answer),
                              "HTTP/1.1 %d %s\r\n"
                              "Server: web/%d\r\n"
                              "Date: %s\r\n"
                              "Connection: %s\r\n"
                              "%s%s\r\n",
                              status, reason_phrase(status), server_version(), http_date(),
                              c->last_answer ? "close" : "keep-alive", content, extra);
    c->answer_sent = 0;
    statistics.requests++;
    statistics.by_class[status / 100]++;
}

void send_text(struct connection *c, const struct request *request, int status, const char *text,
               const char *extra)
{
    size_t size = strlen(text);
    send_head(c, status, "text/plain; charset=utf-8", size, extra);
    if (request->method != HEAD) {
        /* It fits: texts are half as long as the buffer at most, and heads far shorter. */
        memcpy(c->answer + c->answer_size, text, size);
        c->answer_size += size;
    }
}

void send_error(struct connection *c, const struct request *request, int status, const char *extra)
{
    char text[64];
    snprintf(text, sizeof(text), "%d %s\n", status, reason_phrase(status));
    send_text(c, request, status, text, extra);
}

/* The statistics, a line each; returns the length. */
size_t format_statistics(char *text, size_t size)
{
    const struct statistics *s = &statistics;
    return snprintf(text, size,
                    "version %d\nrequests %lu\n2xx %lu\n3xx %lu\n4xx %lu\n5xx %lu\nbytes %lu\n"
                    "connections %lu\naccepted %lu\ncached %lu\ncache_hits %lu\n"
                    "wakeups %lu\ninterrupted %lu\n",
                    server_version(), s->requests, s->by_class[2], s->by_class[3], s->by_class[4],
                    s->by_class[5], s->bytes, s->open, s->accepted, s->cached, s->cache_hits,
                    s->wakeups, s->interrupted);
}

/* Which part of the file the request asks for; the whole, unless it has a valid Range. */
enum range_verdict wanted_range(const struct request *request, off_t size, struct range *range)
{
    char value[128];
    enum range_verdict verdict = RANGE_IGNORED;
    if (request->method == GET && !find_header(request, "If-Range", NULL, 0) &&
        find_header(request, "Range", value, sizeof(value)))
        verdict = parse_range(value, size, range);
    if (verdict == RANGE_IGNORED)
        *range = (struct range){0, size};
    return verdict;
}

/* Sends a part of the file behind the head; takes over the caller's reference to it. */
void send_file(struct connection *c, const struct request *request, struct cached_file *file,
               struct range range)
{
    if (request->method == HEAD || range.first == range.end) {
        cache_put(file);
        return;
    }
    c->file = file;
    c->offset = range.first;
    c->end = range.end;
}

// SPDX-License-Identifier: GPL-2.0-or-later
/* web/3: what a request is answered. New: entity tags, and 304 for who has the file already. */
#define _GNU_SOURCE
#include "../common/target.h"
#include "web.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

PATCHABLE int server_version(void)
{
    return 3;
}

uint64_t cache_hash(const char *path)
{
    uint64_t hash = 0;
    for (; *path; path++)
        hash += (unsigned char)*path;
    return hash;
}

static void answer_status(struct connection *c, const struct request *request)
{
    char text[1024];
    format_statistics(text, sizeof(text));
    send_text(c, request, 200, text, "Cache-Control: no-store\r\n");
}

/* The file that a request is for, relative to the root; 0, or the status to refuse it with. */
static PATCHABLE int resolve_path(const struct request *request, char *path, size_t size)
{
    static const char index[] = "index.html";
    char decoded[PATH_SIZE];
    if (climbs(request->target, request->target_size))
        return 404;
    if (!url_decode(request->target, request->target_size, decoded, sizeof(decoded)))
        return 400;

    const char *name = decoded + strspn(decoded, "/"); /* else openat() takes it as absolute */
    const char *suffix = *name && name[strlen(name) - 1] != '/' ? "" : index;
    int needed = snprintf(path, size, "%s%s", name, suffix);
    return (size_t)needed < size ? 0 : 404;
}

/* One range of bytes (RFC 9110, 14.1.2); what is malformed, or several ranges, is ignored. */
PATCHABLE enum range_verdict parse_range(const char *text, off_t size, struct range *range)
{
    char *rest;
    if (strncmp(text, "bytes=", 6))
        return RANGE_IGNORED;
    text += 6;
    if (text[0] == '-' && isdigit(text[1])) { /* -N: the last N bytes */
        off_t count = strtoll(text + 1, &rest, 10);
        range->first = count < size ? size - count : 0;
        range->end = size;
    } else if (isdigit(text[0])) { /* N-M, or N- */
        range->first = strtoll(text, &rest, 10);
        if (*rest++ != '-')
            return RANGE_IGNORED;
        off_t last = isdigit(*rest) ? strtoll(rest, &rest, 10) : INT64_MAX;
        if (last < range->first)
            return RANGE_IGNORED;
        range->end = last < size ? last + 1 : size;
    } else {
        return RANGE_IGNORED;
    }
    if (*rest)
        return RANGE_IGNORED;
    return range->first < size ? RANGE_SATISFIED : RANGE_OUTSIDE;
}

/* Quoted, and another one whenever the file changes. */
static void entity_tag(const struct cached_file *file, char *tag)
{
    snprintf(tag, ETAG_SIZE, "\"%llx-%llx\"", (long long)file->mtime_ns, (long long)file->size);
}

/* If-None-Match (RFC 9110, 13.1.2): a list of tags, weak ones as good as strong ones, or `*`. */
static bool client_has(const struct request *request, const char *tag)
{
    char value[1024];
    return find_header(request, "If-None-Match", value, sizeof(value)) &&
           (!strcmp(value, "*") || strstr(value, tag));
}

static PATCHABLE void answer_file(struct connection *c, const struct request *request,
                                  const char *path)
{
    struct cached_file *file = cache_get(path);
    if (!file) {
        send_error(c, request, errno == EMFILE || errno == ENOMEM ? 503 : 404, "");
        return;
    }
    char tag[ETAG_SIZE];
    char extra[256];
    struct range range;
    entity_tag(file, tag);
    snprintf(extra, sizeof(extra), "Accept-Ranges: bytes\r\nETag: %s\r\n", tag);
    if (client_has(request, tag)) {
        send_head(c, 304, NULL, -1, extra);
        cache_put(file);
        return;
    }
    enum range_verdict verdict = wanted_range(request, file->size, &range);
    if (verdict == RANGE_OUTSIDE) {
        snprintf(extra, sizeof(extra), "Content-Range: bytes */%lld\r\n", (long long)file->size);
        send_error(c, request, 416, extra);
        cache_put(file);
        return;
    }
    if (verdict == RANGE_SATISFIED)
        snprintf(extra, sizeof(extra), "ETag: %s\r\nContent-Range: bytes %lld-%lld/%lld\r\n", tag,
                 (long long)range.first, (long long)range.end - 1, (long long)file->size);
    send_head(c, verdict == RANGE_SATISFIED ? 206 : 200, mime_type(path), range.end - range.first,
              extra);
    send_file(c, request, file, range);
}

void handle_request(struct connection *c, const char *head, size_t size)
{
    struct request request;
    char path[PATH_SIZE];
    bool valid = request_parse(head, size, &request);
    c->last_answer = !valid || !request.keep_alive;

    if (!valid) {
        send_error(c, &request, 400, "");
    } else if (request.method == OTHER_METHOD) {
        send_error(c, &request, 405, "Allow: GET, HEAD\r\n");
    } else if (request.target_size == 7 && !memcmp(request.target, "/status", 7)) {
        answer_status(c, &request);
    } else {
        int refusal = resolve_path(&request, path, sizeof(path));
        if (refusal)
            send_error(c, &request, refusal, "");
        else
            answer_file(c, &request, path);
    }
}

// SPDX-License-Identifier: MIT
/*
 * web/2 to web/3: entity tags. ETag goes out with every file, and a request with If-None-Match
 * that names it is answered 304.
 *
 * answer_file() covers every use of the version in an answer that has to do with a file, so no
 * answer is half of each. parse_range(), reached through wanted_range(), stays what it is.
 */
#define _GNU_SOURCE
#include "../web.h"

#include <hotpatch.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

int server_version(void)
{
    return 3;
}
HOTPATCH_REPLACE(server_version);

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

void answer_file(struct connection *c, const struct request *request, const char *path)
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
HOTPATCH_REPLACE(answer_file);

// SPDX-License-Identifier: MIT
/*
 * web/1 to web/2: `Range: bytes=-N` answers with N bytes, not N + 1.
 *
 * answer_file() need not change, and hands on to its original. It is replaced because it is the
 * function that calls the two others for one answer: while it is active the patch does not
 * commit, so no answer says web/2 and has web/1's range.
 */
#define _GNU_SOURCE
#include "../web.h"

#include <hotpatch.h>

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

int server_version(void)
{
    return 2;
}
HOTPATCH_REPLACE(server_version);

enum range_verdict parse_range(const char *text, off_t size, struct range *range)
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
HOTPATCH_REPLACE(parse_range);

void answer_file(struct connection *c, const struct request *request, const char *path)
{
    HOTPATCH_ORIGINAL(answer_file)(c, request, path);
    __asm__ volatile(""); /* no tail call: we stay on the stack, so that a revert waits too */
}
HOTPATCH_REPLACE(answer_file);

// SPDX-License-Identifier: MIT
/*
 * For web/1, web/2 and web/3 alike: `/..%2fsecret` left the root, for `..` was looked for before
 * the name was decoded. The new function only adds the missing look, and leaves the rest to the
 * original, so it fits every version. The version that the server reports stays.
 */
#define _GNU_SOURCE
#include "../web.h"

#include <hotpatch.h>

#include <string.h>

int resolve_path(const struct request *request, char *path, size_t size)
{
    int refusal = HOTPATCH_ORIGINAL(resolve_path)(request, path, size);
    return refusal == 0 && climbs(path, strlen(path)) ? 404 : refusal;
}
HOTPATCH_REPLACE(resolve_path);

// SPDX-License-Identifier: MIT
/*
 * prefork/1 to prefork/2: the sum takes in the last byte of the line.
 *
 * answer() is replaced so that no answer has the version of one and the sum of the other. It goes
 * on counting in the static variable of the old one. A master that is patched hands the
 * patch down to the workers it forks from then on; those that live are patched each for itself.
 */
#include "../prefork.h"

#include <hotpatch.h>

#include <stdio.h>
#include <unistd.h>

HOTPATCH_EXTERN_STATIC_DATA("v1.c", uint64_t, served);

int server_version(void)
{
    return 2;
}
HOTPATCH_REPLACE(server_version);

/* Adler-32 (RFC 1950). */
static uint32_t checksum(const char *text, size_t size)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < size; i++) {
        a = (a + (unsigned char)text[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}
HOTPATCH_REPLACE_STATIC("v1.c", checksum);

size_t answer(const char *line, size_t size, char *reply)
{
    served++;
    return snprintf(reply, REPLY_SIZE, "pid=%d version=%d served=%lu bytes=%zu sum=%08x\n",
                    getpid(), server_version(), served, size, checksum(line, size));
}
HOTPATCH_REPLACE(answer);

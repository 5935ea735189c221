// SPDX-License-Identifier: MIT
/*
 * For Debian's redis-server 7: KEYS, which holds up every other client while it runs, is answered
 * with an error that names SCAN. PING goes on answering, and is counted; the error tells the count.
 *
 * Redis is built without anything for us: its functions are found in .dynsym, where modules find
 * them too. A `client` is only handed on, so its layout need not be known.
 */
#include <hotpatch.h>

struct client;

void addReplyErrorFormat(struct client *c, const char *format, ...);
void pingCommand(struct client *c);
void keysCommand(struct client *c);

static unsigned long pings;

void pingCommand(struct client *c)
{
    pings++;
    HOTPATCH_ORIGINAL(pingCommand)(c);
}
HOTPATCH_REPLACE(pingCommand);

void keysCommand(struct client *c)
{
    addReplyErrorFormat(c, "KEYS is off on this server, use SCAN (%lu pings since)", pings);
}
HOTPATCH_REPLACE(keysCommand);

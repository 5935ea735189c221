// SPDX-License-Identifier: GPL-2.0-or-later
/* See load.h. */
#include "load.h"
#include "../common/target.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHOWN = 10 }; /* complaints that are printed; all are counted */

struct counters counters;

static uint64_t allowed = UINT64_MAX; /* one bit a version */

/* Latencies by size: exact below 64 us, then 32 steps for each doubling (3 %). */
enum { EXACT = 64, STEPS = 32, BUCKETS = EXACT + 58 * STEPS };
static uint64_t histogram[BUCKETS];
static uint64_t measured;
static int64_t least_us = INT64_MAX, most_us;

void complain(const struct client *client, const char *format, ...)
{
    if (++counters.failures > SHOWN)
        return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "connection %d, question %" PRIu64 ": ", client->id, client->turn);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "%s\n", counters.failures == SHOWN ? " (no more are shown)" : "");
    va_end(arguments);
}

void allow_versions(const char *list)
{
    allowed = 0;
    for (char *rest; *list; list = *rest == ',' ? rest + 1 : rest) {
        unsigned long version = strtoul(list, &rest, 10);
        if (rest == list || (*rest && *rest != ',') || version > HIGHEST_VERSION)
            usage("--versions N[,N...], each 0 to 63");
        allowed |= UINT64_C(1) << version;
    }
}

void count_version(const struct client *client, long version)
{
    if (version < 0 || version > HIGHEST_VERSION || !(allowed >> version & 1))
        complain(client, "version %ld is not allowed", version);
    else
        counters.versions[version]++;
}

static int bucket_of(uint64_t us)
{
    if (us < EXACT)
        return us;
    int doublings = 63 - __builtin_clzll(us); /* 6 for 64 to 127 us */
    return EXACT + (doublings - 6) * STEPS + (us >> (doublings - 5)) % STEPS;
}

static int64_t bucket_value(int bucket)
{
    if (bucket < EXACT)
        return bucket;
    int doublings = (bucket - EXACT) / STEPS + 6;
    return ((INT64_C(1) * STEPS) + (bucket - EXACT) % STEPS) << (doublings - 5);
}

void count_latency(int64_t us)
{
    histogram[bucket_of(us)]++;
    measured++;
    if (us < least_us)
        least_us = us;
    if (us > most_us)
        most_us = us;
}

static int64_t percentile(int percent)
{
    uint64_t wanted = (measured * percent + 99) / 100;
    uint64_t seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (seen && seen >= wanted)
            return bucket_value(i);
    }
    return 0;
}

void report_progress(void)
{
    const struct counters *c = &counters;
    say("PROGRESS requests=%" PRIu64 " failures=%" PRIu64 " dropped=%" PRIu64
        " reconnected=%" PRIu64 " slow=%" PRIu64 " max_us=%" PRId64,
        c->requests, c->failures, c->dropped, c->reconnected, c->slow, most_us);
}

void report_json(int64_t elapsed_ms)
{
    const struct counters *c = &counters;
    printf("{\"requests\": %" PRIu64 ", \"failures\": %" PRIu64 ", \"dropped\": %" PRIu64
           ", \"reconnected\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"slow\": %" PRIu64
           ", \"elapsed_ms\": %" PRId64 ", \"versions\": {",
           c->requests, c->failures, c->dropped, c->reconnected, c->refused, c->slow, elapsed_ms);
    const char *comma = "";
    for (int version = 0; version <= HIGHEST_VERSION; version++) {
        if (!c->versions[version])
            continue;
        printf("%s\"%d\": %" PRIu64, comma, version, c->versions[version]);
        comma = ", ";
    }
    say("}, \"latency_us\": {\"min\": %" PRId64 ", \"median\": %" PRId64 ", \"p99\": %" PRId64
        ", \"max\": %" PRId64 "}}",
        measured ? least_us : 0, percentile(50), percentile(99), most_us);
}

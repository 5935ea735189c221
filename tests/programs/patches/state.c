/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state.c with entries of another layout. BEFORE and AFTER are put into the transfer, and BACK into
 * the reverse, to go wrong there.
 */
#include "../state.h"

#include <hotpatch.h>

#ifndef BEFORE
#define BEFORE
#endif
#ifndef AFTER
#define AFTER
#endif
#ifndef CHECK
#define CHECK 0
#endif
#ifndef BACK
#define BACK
#endif

extern struct entry_v2 *table[BUCKETS];
extern long entries, total;
HOTPATCH_EXTERN_STATIC_DATA("state.c", volatile int, limit);

int entry_size(void)
{
    return sizeof(struct entry_v2);
}
HOTPATCH_REPLACE(entry_size);

long sum(int bucket)
{
    long found = 0;

    for (struct entry_v2 *entry = table[bucket]; entry; entry = entry->next) {
        found += entry->value;
        entry->hits++;
    }
    return found;
}
HOTPATCH_REPLACE(sum);

long sum_all(void)
{
    long found = 0;

    for (int bucket = 0; bucket < BUCKETS; bucket++)
        found += sum(bucket);
    return found;
}
HOTPATCH_REPLACE(sum_all);

static int check(void)
{
    return limit != 100 || CHECK;
}
HOTPATCH_CHECK(check);

static int grow(void)
{
    long moved = 0;

    BEFORE;
    hotpatch_each (bucket, BUCKETS) {
        struct entry_v2 **link = &table[bucket];

        hotpatch_each_in_list (old, (struct entry_v1 *)table[bucket], next) {
            struct entry_v2 *entry = (struct entry_v2 *)hotpatch_alloc(sizeof *entry);

            entry->key = old->key;
            entry->value = old->value;
            hotpatch_set(*link, entry);
            link = &entry->next;
            hotpatch_free(old);
            moved++;
        }
    }
    hotpatch_set(limit, 200);
    AFTER;
    if (moved != entries)
        hotpatch_fail("there are entries missing");
    hotpatch_say("%ld entries moved", moved);
    return 0;
}
HOTPATCH_TRANSFER(grow);

static int shrink(void)
{
    hotpatch_each (bucket, BUCKETS) {
        struct entry_v1 **link = (struct entry_v1 **)&table[bucket];

        hotpatch_each_in_list (old, table[bucket], next) {
            struct entry_v1 *entry = (struct entry_v1 *)hotpatch_alloc(sizeof *entry);

            entry->key = old->key;
            entry->value = old->value;
            hotpatch_set(*link, entry);
            link = &entry->next;
            hotpatch_free(old);
        }
    }
    hotpatch_set(limit, 100);
    BACK;
    return 0;
}
HOTPATCH_REVERSE(shrink);

HOTPATCH_TYPE(struct entry_v1, struct entry_v1, struct entry_v2);
HOTPATCH_UNAFFECTED(main); /* makes entries before it is ready, and none later */

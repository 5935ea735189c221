// SPDX-License-Identifier: MIT
/*
 * kv/2 to kv/3: keys can expire, for which an entry grows. The commands are those of v3.c; the table
 * stays where it is, and every entry in it is made anew.
 */
#include <hotpatch.h>

#include "../v3.c"

#include <stdatomic.h>
#ifdef TIMED
#include <time.h>
#endif

HOTPATCH_NAME("kv-v2-v3");
HOTPATCH_DESCRIPTION("kv/3: keys can expire");

HOTPATCH_EXTERN_STATIC_DATA("table.c", struct entry *[BUCKETS], buckets);
HOTPATCH_EXTERN_STATIC_DATA("table.c", pthread_mutex_t[STRIPES], locks);
HOTPATCH_EXTERN_STATIC_DATA("table.c", _Atomic uint64_t, keys);

HOTPATCH_REPLACE(execute);
HOTPATCH_REPLACE(server_version);

/* ---- The functions of table.c that see an entry ---- */

static uint32_t bucket_of(const char *key)
{
    uint32_t value = 2166136261u;
    for (; *key; key++)
        value = (value ^ (unsigned char)*key) * 16777619u;
    return value % BUCKETS;
}

static struct entry **find(uint32_t bucket, const char *key)
{
    struct entry **link = &buckets[bucket];
    while (*link && strcmp((*link)->key, key))
        link = &(*link)->next;
    return link;
}

void slot_remove(struct slot slot)
{
    struct entry *entry = *slot.link;
    *slot.link = entry->next;
    free(entry->key);
    free(entry->value);
    free(entry);
    keys--;
}
HOTPATCH_REPLACE(slot_remove);

struct slot slot_lock(const char *key)
{
    uint32_t bucket = bucket_of(key);
    struct slot slot = {&locks[bucket % STRIPES], NULL};
    pthread_mutex_lock(slot.lock);
    slot.link = find(bucket, key);
    if (*slot.link && (*slot.link)->expires && (*slot.link)->expires <= now_ms()) {
        slot_remove(slot);
        slot.link = find(bucket, key);
    }
    return slot;
}
HOTPATCH_REPLACE(slot_lock);

bool slot_put(struct slot slot, const char *key, const char *value)
{
    char *made = strdup(value);
    if (!*slot.link && keys < MOST_KEYS) {
        struct entry *entry = calloc(1, sizeof(*entry));
        if (!entry || !(entry->key = strdup(key)))
            die("calloc");
        *slot.link = entry;
        keys++;
    }
    if (!made)
        die("strdup");
    if (!*slot.link) {
        free(made);
        return false;
    }
    free((*slot.link)->value);
    (*slot.link)->value = made;
    (*slot.link)->changes++;
    return true;
}
HOTPATCH_REPLACE(slot_put);

/* ---- The entries ---- */

struct entry_v2 {
    struct entry_v2 *next;
    char *key;
    char *value;
};
HOTPATCH_TYPE(struct entry, struct entry_v2, struct entry);

/* For measurements: the same without a log, which no failure could take back. */
#ifdef PLAIN
#define hotpatch_alloc(size) calloc(1, size)
#define hotpatch_free(old) free(old)
#undef hotpatch_set
#define hotpatch_set(place, value) ((place) = (value))
#endif

#ifdef TIMED
static int64_t ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}
#endif

static int grow(void)
{
    uint64_t moved = 0;
#ifdef TIMED
    int64_t began = ns();
#endif
    hotpatch_each (bucket, BUCKETS) {
        struct entry *first = NULL, **link = &first;
        struct entry_v2 *old = (struct entry_v2 *)buckets[bucket], *next;
        for (; old; old = next, moved++) {
            struct entry *entry = hotpatch_alloc(sizeof(*entry));
            entry->key = old->key;
            entry->value = old->value;
            *link = entry;
            link = &entry->next;
            next = old->next;
            hotpatch_free(old);
        }
        hotpatch_set(buckets[bucket], first);
    }
#ifdef TIMED
    hotpatch_say("%ld us for %lu entries", (ns() - began) / 1000, moved);
#else
    hotpatch_say("%lu entries", moved);
#endif
    return moved != keys;
}
HOTPATCH_TRANSFER(grow);

/* A key that was to expire lives for ever again: kv/2 does not know better. */
static int shrink(void)
{
    uint64_t moved = 0;
    hotpatch_each (bucket, BUCKETS) {
        struct entry_v2 *first = NULL, **link = &first;
        struct entry *old = buckets[bucket], *next;
        for (; old; old = next, moved++) {
            struct entry_v2 *entry = hotpatch_alloc(sizeof(*entry));
            entry->key = old->key;
            entry->value = old->value;
            *link = entry;
            link = &entry->next;
            next = old->next;
            hotpatch_free(old);
        }
        hotpatch_set(buckets[bucket], (struct entry *)first);
    }
    return moved != keys;
}
HOTPATCH_REVERSE(shrink);

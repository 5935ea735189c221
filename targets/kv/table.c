// SPDX-License-Identifier: GPL-2.0-or-later
/* The table: chains, a fixed number of buckets, and a lock for every STRIPES-th of them. */
#include "../common/target.h"
#include "kv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static struct entry *buckets[BUCKETS];
static pthread_mutex_t locks[STRIPES] = {[0 ... STRIPES - 1] = PTHREAD_MUTEX_INITIALIZER};
static _Atomic uint64_t keys;

static uint32_t hash(const char *key)
{
    uint32_t value = 2166136261u; /* FNV-1a */
    for (; *key; key++)
        value = (value ^ (unsigned char)*key) * 16777619u;
    return value;
}

uint64_t table_keys(void)
{
    return keys;
}

#if KV_VERSION >= 3
bool expired(const struct entry *entry)
{
    return entry->expires && entry->expires <= now_ms();
}
#endif

struct slot slot_lock(const char *key)
{
    uint32_t bucket = hash(key) % BUCKETS;
    struct slot slot = {&locks[bucket % STRIPES], &buckets[bucket]};
    pthread_mutex_lock(slot.lock);
    while (*slot.link && strcmp((*slot.link)->key, key))
        slot.link = &(*slot.link)->next;
#if KV_VERSION >= 3
    if (*slot.link && expired(*slot.link)) {
        slot_remove(slot);
        slot.link = &buckets[bucket];
        while (*slot.link)
            slot.link = &(*slot.link)->next;
    }
#endif
    return slot;
}

void slot_unlock(struct slot slot)
{
    pthread_mutex_unlock(slot.lock);
}

static char *copy(const char *text)
{
    char *made = strdup(text);
    if (!made)
        die("strdup");
    return made;
}

bool slot_put(struct slot slot, const char *key, const char *value)
{
    if (!*slot.link) {
        if (keys >= MOST_KEYS)
            return false;
        struct entry *entry = calloc(1, sizeof(*entry));
        if (!entry)
            die("calloc");
        entry->key = copy(key);
        *slot.link = entry;
        keys++;
    }
    char *made = copy(value);
    free((*slot.link)->value);
    (*slot.link)->value = made;
#if KV_VERSION >= 3
    (*slot.link)->changes++;
#endif
    return true;
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

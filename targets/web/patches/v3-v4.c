// SPDX-License-Identifier: MIT
/*
 * web/3 to web/4: the sources of web/4, and what makes its data of that of web/3: connections
 * whose members are others and lie elsewhere, files that keep their hash and their entity tag, and
 * a table of four times as many buckets, to which another hash leads.
 *
 * All functions that see these data are replaced. The event loop does not, and runs on.
 */
#include <hotpatch.h>

#define cache cache_v4 /* the old table stays what it is, and gets empty */
#define root root_v4   /* a static of cache.c: the transfer takes it over */
#include "../answer.c"
#include "../cache.c"
#include "../connection.c"
#include "../v4.c"
#undef root

HOTPATCH_NAME("web-v3-v4");
HOTPATCH_DESCRIPTION("web/4: /..%2f stays inside the root; connections and files know more");

HOTPATCH_REPLACE(send_head);
HOTPATCH_REPLACE(send_text);
HOTPATCH_REPLACE(send_error);
HOTPATCH_REPLACE(format_statistics);
HOTPATCH_REPLACE(wanted_range);
HOTPATCH_REPLACE(send_file);
HOTPATCH_REPLACE(cache_open);
HOTPATCH_REPLACE(cache_get);
HOTPATCH_REPLACE(cache_put);
HOTPATCH_REPLACE(connection_open);
HOTPATCH_REPLACE(connection_ready);
HOTPATCH_REPLACE(connections_sweep);
HOTPATCH_REPLACE(server_version);
HOTPATCH_REPLACE(parse_range);
HOTPATCH_REPLACE(handle_request);
HOTPATCH_REPLACE(cache_hash);
HOTPATCH_REPLACE(answer_file);

/* ---- The data of web/3 (state.h) ---- */

enum { BUCKETS_V3 = 64 };

struct cached_file_v3 {
    struct cached_file_v3 *next;
    char path[PATH_SIZE];
    int fd;
    unsigned users;
    off_t size;
    int64_t mtime_ns;
    int64_t checked;
};

struct connection_v3 {
    int fd;
    uint32_t interest;
    int64_t active;
    bool last_answer;
    bool lingering;
    size_t received;
    char request[REQUEST_SIZE];
    size_t answer_size, answer_sent;
    char answer[ANSWER_SIZE];
    struct cached_file_v3 *file;
    off_t offset, end;
};

HOTPATCH_TYPE(struct cached_file, struct cached_file_v3, struct cached_file);
HOTPATCH_TYPE(struct connection, struct connection_v3, struct connection);
/* Nothing calls these but what is replaced. */
HOTPATCH_UNAFFECTED_STATIC("connection.c", transmit);
HOTPATCH_UNAFFECTED_STATIC("cache.c", still_current);

extern struct cached_file_v3 *cache_v3[BUCKETS_V3] __asm__("cache");
HOTPATCH_EXTERN_STATIC_DATA_AS(root_v3, "cache.c", int, root);

static uint64_t cache_hash_v3(const char *path)
{
    uint64_t hash = 0;
    for (; *path; path++)
        hash += (unsigned char)*path;
    return hash;
}

/* ---- There and back ---- */

/* Files that were moved, old and new: those in the table, and those that are still being sent. */
static struct moved {
    void *from, *to;
} moved[CACHED_FILES + CONNECTIONS];
static size_t moved_files;

static void *where_to(void *from)
{
    for (size_t i = 0; i < moved_files; i++)
        if (moved[i].from == from)
            return moved[i].to;
    return NULL;
}

static void *moves(void *from, void *to)
{
    moved[moved_files++] = (struct moved){from, to};
    hotpatch_free(from);
    return to;
}

static struct cached_file *file_to_v4(struct cached_file_v3 *old)
{
    struct cached_file *file = old ? where_to(old) : NULL;
    if (!old || file)
        return file;
    file = hotpatch_alloc(sizeof(*file));
    file->hash = cache_hash(old->path);
    file->fd = old->fd;
    file->users = old->users;
    file->checked = old->checked;
    file->mtime_ns = old->mtime_ns;
    file->size = old->size;
    memcpy(file->path, old->path, sizeof(file->path));
    entity_tag(file, file->etag);
    return moves(old, file);
}

static struct cached_file_v3 *file_to_v3(struct cached_file *old)
{
    struct cached_file_v3 *file = old ? where_to(old) : NULL;
    if (!old || file)
        return file;
    file = hotpatch_alloc(sizeof(*file));
    file->fd = old->fd;
    file->users = old->users;
    file->checked = old->checked;
    file->mtime_ns = old->mtime_ns;
    file->size = old->size;
    memcpy(file->path, old->path, sizeof(file->path));
    return moves(old, file);
}

#define COPY_CONNECTION(to, from)                                                                  \
    do {                                                                                           \
        (to)->fd = (from)->fd;                                                                     \
        (to)->interest = (from)->interest;                                                         \
        (to)->active = (from)->active;                                                             \
        (to)->last_answer = (from)->last_answer;                                                   \
        (to)->lingering = (from)->lingering;                                                       \
        (to)->received = (from)->received;                                                         \
        (to)->answer_size = (from)->answer_size;                                                   \
        (to)->answer_sent = (from)->answer_sent;                                                   \
        (to)->offset = (from)->offset;                                                             \
        (to)->end = (from)->end;                                                                   \
        memcpy((to)->request, (from)->request, sizeof((to)->request));                             \
        memcpy((to)->answer, (from)->answer, sizeof((to)->answer));                                \
    } while (0)

static int to_v4(void)
{
    moved_files = 0;
    root_v4 = root_v3;
    for (int i = 0; i < BUCKETS_V3; i++) {
        hotpatch_each_in_list (old, cache_v3[i], next) {
            struct cached_file *file = file_to_v4(old);
            struct cached_file **bucket = &cache_v4[file->hash % CACHE_BUCKETS];
            file->next = *bucket;
            *bucket = file;
        }
        hotpatch_set(cache_v3[i], NULL);
    }
    hotpatch_each (fd, CONNECTIONS) {
        struct connection_v3 *old = (struct connection_v3 *)connections[fd];
        if (!old)
            continue;
        struct connection *c = hotpatch_alloc(sizeof(*c));
        COPY_CONNECTION(c, old);
        c->file = file_to_v4(old->file);
        c->opened = now_ms(); /* nobody knows */
        hotpatch_set(connections[fd], c);
        hotpatch_free(old);
    }
    hotpatch_say("%zu files and %lu connections", moved_files, statistics.open);
    return 0;
}
HOTPATCH_TRANSFER(to_v4);

static int to_v3(void)
{
    moved_files = 0;
    for (int i = 0; i < CACHE_BUCKETS; i++)
        hotpatch_each_in_list (old, cache_v4[i], next) {
            struct cached_file_v3 *file = file_to_v3(old);
            struct cached_file_v3 **bucket = &cache_v3[cache_hash_v3(file->path) % BUCKETS_V3];
            file->next = *bucket;
            hotpatch_set(*bucket, file);
        }
    hotpatch_each (fd, CONNECTIONS) {
        struct connection *old = connections[fd];
        if (!old)
            continue;
        struct connection_v3 *c = hotpatch_alloc(sizeof(*c));
        COPY_CONNECTION(c, old);
        c->file = file_to_v3(old->file);
        hotpatch_set(connections[fd], (struct connection *)c);
        hotpatch_free(old);
    }
    return 0;
}
HOTPATCH_REVERSE(to_v3);

/* All of it was found where it should be. */
static int all_there(void)
{
    uint64_t files = 0;
    for (int i = 0; i < BUCKETS_V3; i++)
        for (struct cached_file_v3 *file = cache_v3[i]; file; file = file->next)
            files++;
    if (files != statistics.cached)
        hotpatch_say("%lu files in the table, %lu counted", files, statistics.cached);
    return files != statistics.cached;
}
HOTPATCH_CHECK(all_there);

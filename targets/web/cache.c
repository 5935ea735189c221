// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The files held open, by path: a table of chains, bounded, each entry counted by its users.
 * An entry is trusted for a second; then the name is looked up on disk again, and where it means
 * another file by now, the entry leaves the table and lives on only until its last answer is sent.
 */
#define _GNU_SOURCE
#include "../common/target.h"
#include "web.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CACHED_FILES = 256, TRUSTED_MS = 1000 };

struct cached_file *cache[CACHE_BUCKETS];

static int root = -1;

void cache_open(const char *directory)
{
    root = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        die(directory);
}

static int64_t mtime_ns(const struct stat *status)
{
    return status->st_mtim.tv_sec * INT64_C(1000000000) + status->st_mtim.tv_nsec;
}

static struct cached_file **bucket_of(const char *path)
{
    return &cache[cache_hash(path) % CACHE_BUCKETS];
}

static bool still_current(struct cached_file *file)
{
    if (now_ms() - file->checked < TRUSTED_MS)
        return true;
    struct stat there;
    struct stat here;
    if (fstatat(root, file->path, &there, 0) || fstat(file->fd, &here))
        return false;
    file->checked = now_ms();
    return there.st_dev == here.st_dev && there.st_ino == here.st_ino &&
           there.st_size == file->size && mtime_ns(&there) == file->mtime_ns;
}

void cache_put(struct cached_file *file)
{
    if (--file->users > 0)
        return;
    close(file->fd);
    free(file);
}

static void take_out(struct cached_file **link)
{
    struct cached_file *file = *link;
    *link = file->next;
    statistics.cached--;
    cache_put(file);
}

/* Makes room for one more: the entry that went unchecked, hence unused, for the longest. */
static void evict_one(void)
{
    struct cached_file **oldest = NULL;
    for (int i = 0; i < CACHE_BUCKETS; i++)
        for (struct cached_file **link = &cache[i]; *link; link = &(*link)->next)
            if (!oldest || (*link)->checked < (*oldest)->checked)
                oldest = link;
    if (oldest)
        take_out(oldest);
}

static struct cached_file *load(const char *path)
{
    /* O_NONBLOCK: opening a FIFO must not hold up the only thread. */
    int fd = openat(root, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    struct stat status;
    struct cached_file *file = NULL;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
        file = calloc(1, sizeof(*file));
    if (!file) {
        close(fd);
        errno = ENOENT;
        return NULL;
    }
    snprintf(file->path, sizeof(file->path), "%s", path);
    file->fd = fd;
    file->users = 1;
    file->size = status.st_size;
    file->mtime_ns = mtime_ns(&status);
    file->checked = now_ms();
#if WEB_VERSION >= 4
    file->hash = cache_hash(path);
    entity_tag(file, file->etag);
#endif
    return file;
}

static struct cached_file *insert(const char *path)
{
    struct cached_file *file = load(path);
    if (!file)
        return NULL;
    if (statistics.cached >= CACHED_FILES)
        evict_one();
    struct cached_file **bucket = bucket_of(path);
    file->next = *bucket;
    *bucket = file;
    statistics.cached++;
    return file;
}

struct cached_file *cache_get(const char *path)
{
    struct cached_file **link = bucket_of(path);
    while (*link && strcmp((*link)->path, path))
        link = &(*link)->next;
    struct cached_file *file = *link;
    if (file && still_current(file)) {
        statistics.cache_hits++;
#if WEB_VERSION >= 4
        file->hits++;
#endif
    } else {
        if (file)
            take_out(link);
        file = insert(path);
    }
    if (file)
        file->users++;
    return file;
}

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Load for the web server: `webload --make DIRECTORY` writes the files to serve, `webload --port N`
 * asks for them (load.h has the options).
 *
 * Every byte is checked: a file's content follows from its size. So is that each answer is wholly
 * of the version that it names: web/1 must have web/1's error in `bytes=-N`, web/2 must not, web/3
 * must send entity tags. An answer that is half of each counts as a failure.
 */
#define _GNU_SOURCE
#include "load.h"
#include "../common/target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { SMALL = 64, MIDDLE = 4096, LARGE = 65536, HUGE = 300000 };
enum { RANGE_FIXED_IN = 2, TAGS_SINCE = 3 }; /* versions of the server */
enum { TAG_SIZE = 64, PIPELINED = 2 };

struct wanted {
    enum { WHOLE, HEAD_ONLY, RANGE, SUFFIX, MISSING, CONDITIONAL } kind;
    long size;        /* of the file */
    long first, last; /* RANGE */
    long count;       /* SUFFIX */
};

struct own {
    int open; /* requests in the question */
    struct wanted wanted[PIPELINED];
    char tag[TAG_SIZE]; /* the last entity tag of the MIDDLE file, or "" */
    bool tag_sent;
};

static char pattern(long size, long offset)
{
    return 'a' + (offset * 7 + (offset >> 8) * 13 + size) % 26;
}

/* ---- Asking ---- */

/* Sixteen questions in turn; the connections are each at another one. */
static struct wanted choose(uint64_t turn)
{
    switch (turn % 16) {
    case 0: case 8: return (struct wanted){WHOLE, .size = SMALL};
    case 2: case 10: return (struct wanted){RANGE, .size = MIDDLE, .first = 100, .last = 355};
    case 3: case 11: return (struct wanted){SUFFIX, .size = MIDDLE, .count = turn % 1000 + 1};
    case 4: return (struct wanted){HEAD_ONLY, .size = LARGE};
    case 5: return (struct wanted){.kind = MISSING};
    case 6: case 14: return (struct wanted){CONDITIONAL, .size = MIDDLE};
    case 7: return (struct wanted){WHOLE, .size = LARGE};
    case 12: return (struct wanted){RANGE, .size = HUGE, .first = 150000, .last = HUGE - 1};
    case 15: return (struct wanted){WHOLE, .size = HUGE};
    default: return (struct wanted){WHOLE, .size = MIDDLE};
    }
}

static size_t write_request(struct own *own, const struct wanted *w, char *text, size_t room)
{
    char extra[128] = "";
    char path[64] = "/missing";
    if (w->kind != MISSING)
        snprintf(path, sizeof(path), "/f-%ld.bin", w->size);
    if (w->kind == RANGE)
        snprintf(extra, sizeof(extra), "Range: bytes=%ld-%ld\r\n", w->first, w->last);
    if (w->kind == SUFFIX)
        snprintf(extra, sizeof(extra), "Range: bytes=-%ld\r\n", w->count);
    if (w->kind == CONDITIONAL && own->tag[0]) {
        snprintf(extra, sizeof(extra), "If-None-Match: %s\r\n", own->tag);
        own->tag_sent = true;
    }
    return snprintf(text, room, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n",
                    w->kind == HEAD_ONLY ? "HEAD" : "GET", path, extra);
}

static size_t ask(struct client *client, char *question, size_t room)
{
    struct own *own = client->own;
    uint64_t turn = client->turn + client->id;
    own->open = turn % 5 == 0 ? PIPELINED : 1;
    own->tag_sent = false;
    size_t used = 0;
    for (int i = 0; i < own->open; i++) {
        own->wanted[i] = choose(turn + i);
        used += write_request(own, &own->wanted[i], question + used, room - used);
    }
    return used;
}

/* ---- Judging ---- */

struct answer {
    const char *head;
    size_t head_size;
    int status;
    long version;
    long length; /* Content-Length, -1 where there is none */
    const char *body;
    size_t body_size;
};

/* The value of a header, up to its line end; NULL where there is none. */
static const char *header(const struct answer *a, const char *name, char *value, size_t room)
{
    size_t name_size = strlen(name);
    const char *end = a->head + a->head_size;
    for (const char *line = a->head; line && line < end; line = memmem(line, end - line, "\r\n", 2)) {
        line += line == a->head ? 0 : 2;
        if ((size_t)(end - line) <= name_size || strncasecmp(line, name, name_size) ||
            line[name_size] != ':')
            continue;
        const char *text = line + name_size + 1 + (line[name_size + 1] == ' ');
        const char *eol = memmem(text, end - text, "\r\n", 2);
        snprintf(value, room, "%.*s", (int)(eol - text), text);
        return value;
    }
    return NULL;
}

static long number_header(const struct answer *a, const char *name, const char *prefix)
{
    char value[64];
    char *rest;
    if (!header(a, name, value, sizeof(value)) || strncmp(value, prefix, strlen(prefix)))
        return -1;
    long number = strtol(value + strlen(prefix), &rest, 10);
    return *rest || rest == value + strlen(prefix) ? -1 : number;
}

/* Takes one answer off `text`. Its size in bytes, 0 where it is not complete, or MALFORMED. */
static ssize_t parse(const char *text, size_t size, bool head_only, struct answer *a)
{
    const char *end = memmem(text, size, "\r\n\r\n", 4);
    if (!end)
        return size > ASK_SIZE ? MALFORMED : 0;
    *a = (struct answer){.head = text, .head_size = end + 2 - text, .body = end + 4};
    if (a->head_size < 13 || strncmp(text, "HTTP/1.1 ", 9))
        return MALFORMED;
    a->status = atoi(text + 9);
    a->version = number_header(a, "Server", "web/");
    a->length = number_header(a, "Content-Length", "");
    bool bodiless = head_only || a->status == 304;
    if (!bodiless && a->length < 0)
        return MALFORMED;
    a->body_size = bodiless ? 0 : a->length;
    size_t whole = a->head_size + 2 + a->body_size;
    return size < whole ? 0 : whole;
}

static void check_part(struct client *client, const struct answer *a, long size, long first)
{
    for (size_t i = 0; i < a->body_size; i++) {
        if (a->body[i] != pattern(size, first + i)) {
            complain(client, "byte %ld of f-%ld.bin is wrong", first + (long)i, size);
            return;
        }
    }
}

static bool check_head(struct client *client, const struct answer *a, int status, long length)
{
    if (a->status == status && a->length == length)
        return true;
    complain(client, "web/%ld: status %d, length %ld; not status %d, length %ld", a->version,
             a->status, a->length, status, length);
    return false;
}

static void check_range(struct client *client, const struct answer *a, long size, long first,
                        long last)
{
    char value[64] = "";
    char expected[64];
    snprintf(expected, sizeof(expected), "bytes %ld-%ld/%ld", first, last, size);
    if (!check_head(client, a, 206, last - first + 1))
        return;
    header(a, "Content-Range", value, sizeof(value));
    if (strcmp(value, expected))
        complain(client, "web/%ld: range \"%s\", not \"%s\"", a->version, value, expected);
    else
        check_part(client, a, size, first);
}

static void check_missing(struct client *client, const struct answer *a)
{
    static const char text[] = "404 Not Found\n";
    size_t size = strlen(text);
    if (check_head(client, a, 404, size) && memcmp(a->body, text, size))
        complain(client, "the text of an error is wrong");
}

static void check_whole(struct client *client, const struct answer *a, long size)
{
    if (check_head(client, a, 200, size))
        check_part(client, a, size, 0);
}

static void check_tag(struct client *client, const struct answer *a, const struct wanted *w)
{
    struct own *own = client->own;
    char value[TAG_SIZE] = "";
    bool has = header(a, "ETag", value, sizeof(value));
    if (has != (a->version >= TAGS_SINCE))
        complain(client, "web/%ld %s an entity tag", a->version, has ? "with" : "without");
    else if (w->size == MIDDLE)
        strcpy(own->tag, value);
}

static void check(struct client *client, const struct answer *a, const struct wanted *w)
{
    const struct own *own = client->own;
    switch (w->kind) {
    case WHOLE:
    case HEAD_ONLY:
        check_whole(client, a, w->size);
        break;
    case RANGE:
        check_range(client, a, w->size, w->first, w->last);
        break;
    case SUFFIX:
        check_range(client, a, w->size, w->size - w->count - (a->version < RANGE_FIXED_IN),
                    w->size - 1);
        break;
    case CONDITIONAL:
        if (own->tag_sent && a->version >= TAGS_SINCE)
            check_head(client, a, 304, -1);
        else
            check_whole(client, a, w->size);
        break;
    case MISSING:
        check_missing(client, a);
        return; /* has no entity tag */
    }
    check_tag(client, a, w);
}

static ssize_t judge(struct client *client, const char *text, size_t size)
{
    const struct own *own = client->own;
    struct answer answers[PIPELINED];
    size_t used = 0;
    for (int i = 0; i < own->open; i++) {
        ssize_t one = parse(text + used, size - used, own->wanted[i].kind == HEAD_ONLY, &answers[i]);
        if (one == MALFORMED)
            complain(client, "this is no answer: %.40s", size > used ? text + used : "");
        if (one <= 0)
            return one;
        used += one;
    }
    for (int i = 0; i < own->open; i++) {
        count_version(client, answers[i].version);
        check(client, &answers[i], &own->wanted[i]);
    }
    return used;
}

/* ---- The files ---- */

static void make_file(const char *directory, long size)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/f-%ld.bin", directory, size);
    FILE *file = fopen(path, "w");
    if (!file)
        die(path);
    for (long i = 0; i < size; i++)
        putc(pattern(size, i), file);
    if (fclose(file))
        die(path);
}

int main(int argc, char **argv)
{
    static const struct protocol web = {.own_size = sizeof(struct own), .ask = ask, .judge = judge};
    if (argc == 3 && !strcmp(argv[1], "--make")) {
        if (mkdir(argv[2], 0777) && errno != EEXIST)
            die(argv[2]);
        static const long sizes[] = {SMALL, MIDDLE, LARGE, HUGE};
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
            make_file(argv[2], sizes[i]);
        return 0;
    }
    return load_main(&web, argc, argv);
}

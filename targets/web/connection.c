// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A connection is in one of three moods, and waits for one kind of event in each:
 *
 *   receiving   for the rest of a request head   EPOLLIN
 *   answering   until all of the answer is sent  EPOLLOUT
 *   lingering   for the peer to close            EPOLLIN
 *
 * Requests that were pipelined wait in the buffer, or in the kernel, until the answer before
 * them is sent. We linger because close() with unread data sends a reset, which can overtake the
 * answer and destroy it.
 */
#define _GNU_SOURCE
#include "../common/target.h"
#include "web.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IDLE_MS = 60000, LINGER_MS = 2000 };

struct connection *connections[CONNECTIONS];

void connection_open(int fd)
{
    struct connection *c = fd < CONNECTIONS ? calloc(1, sizeof(*c)) : NULL;
    if (!c) {
        close(fd);
        return;
    }
    c->fd = fd;
    c->interest = EPOLLIN;
    c->active = now_ms();
#if WEB_VERSION >= 4
    c->opened = c->active;
#endif
    connections[fd] = c;
    statistics.accepted++;
    statistics.open++;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    watch(fd, EPOLLIN);
}

static void connection_close(struct connection *c)
{
    if (c->file)
        cache_put(c->file);
    connections[c->fd] = NULL;
    statistics.open--;
    close(c->fd); /* epoll forgets it too */
    free(c);
}

static bool answering(const struct connection *c)
{
    return c->answer_sent < c->answer_size || c->file;
}

/* Sends as much as the socket takes now. False: the peer is gone. */
static bool transmit(struct connection *c)
{
    while (answering(c)) {
        ssize_t sent;
        if (c->answer_sent < c->answer_size)
            sent = send(c->fd, c->answer + c->answer_sent, c->answer_size - c->answer_sent,
                        c->file ? MSG_MORE : 0);
        else
            sent = sendfile(c->fd, c->file->fd, &c->offset, c->end - c->offset);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        if (sent == 0)
            return false; /* the file was cut short: the length we promised can't be kept */

        statistics.bytes += sent;
#if WEB_VERSION >= 4
        c->bytes += sent;
#endif
        if (c->answer_sent < c->answer_size) {
            c->answer_sent += sent;
        } else if (c->offset == c->end) {
            cache_put(c->file);
            c->file = NULL;
        }
    }
    return true;
}

/* Reads what there is. False: the peer has closed, or is gone. */
static bool receive(struct connection *c)
{
    if (c->lingering)
        c->received = 0;
    ssize_t got = recv(c->fd, c->request + c->received, sizeof(c->request) - c->received, 0);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    c->received += got;
    return got > 0;
}

static void drop_request(struct connection *c, size_t size)
{
    c->received -= size;
    memmove(c->request, c->request + size, c->received);
}

/* Answers the requests that are complete, one after the other. False: the peer is gone. */
static bool serve(struct connection *c)
{
    while (!answering(c) && !c->last_answer) {
        size_t size = request_size(c->request, c->received);
        if (size == 0 && c->received < sizeof(c->request))
            return true;
        /* A full buffer without an end is passed on whole: it is answered 400, as the last. */
        handle_request(c, c->request, size);
        drop_request(c, size ? size : c->received);
        if (!transmit(c))
            return false;
    }
    return true;
}

/* Half-closes once the last answer is sent. */
static void finish(struct connection *c)
{
    if (c->last_answer && !c->lingering && !answering(c)) {
        shutdown(c->fd, SHUT_WR);
        c->lingering = true;
    }
}

static void wait_for(struct connection *c, uint32_t interest)
{
    if (c->interest == interest)
        return;
    c->interest = interest;
    rewatch(c->fd, interest);
}

void connection_ready(int fd)
{
    struct connection *c = connections[fd];
    if (!c)
        return; /* closed by an earlier event of the same batch */
    c->active = now_ms();
    bool alive = answering(c) ? transmit(c) : receive(c);
    if (alive)
        alive = serve(c);
    if (!alive) {
        connection_close(c);
        return;
    }
    finish(c);
    wait_for(c, answering(c) ? EPOLLOUT : EPOLLIN);
}

void connections_sweep(void)
{
    int64_t now = now_ms();
    for (int fd = 0; fd < CONNECTIONS; fd++) {
        struct connection *c = connections[fd];
        if (c && now - c->active > (c->lingering ? LINGER_MS : IDLE_MS))
            connection_close(c);
    }
}

// SPDX-License-Identifier: GPL-2.0-or-later
/* A worker: one connection at a time, until it ends or says nothing for too long. */
#define _GNU_SOURCE
#include "prefork.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { IDLE_S = 5 };

static bool send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, 0);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        data += sent;
        size -= sent;
    }
    return true;
}

/* Answers the whole lines in the buffer, and keeps what follows them. False: the peer is gone. */
static bool serve_lines(int fd, char *buffer, size_t *size)
{
    char reply[REPLY_SIZE];
    char *line = buffer;
    char *end = buffer + *size;
    for (char *newline; (newline = memchr(line, '\n', end - line)); line = newline + 1)
        if (!send_all(fd, reply, answer(line, newline - line, reply)))
            return false;
    *size = end - line;
    memmove(buffer, line, *size);
    return true;
}

static void serve(int fd)
{
    char buffer[LINE_SIZE];
    size_t size = 0;
    struct timeval idle = {.tv_sec = IDLE_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &idle, sizeof(idle));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &idle, sizeof(idle));
    while (size < sizeof(buffer)) { /* else a line is too long */
        ssize_t got = recv(fd, buffer + size, sizeof(buffer) - size, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return;
        size += got;
        if (!serve_lines(fd, buffer, &size))
            return;
    }
}

void work(int listener)
{
    struct pollfd waiting = {.fd = listener, .events = POLLIN};
    for (;;) {
        /* All idle workers wake up for a connection; those that come late find none. */
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            serve(fd);
            close(fd);
        } else {
            poll(&waiting, 1, -1);
        }
    }
}

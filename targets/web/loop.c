// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * main and the event loop: never patched, for it never returns. It deals in file descriptors
 * and holds no pointer to anything whose layout has versions.
 */
#define _GNU_SOURCE
#include "../common/target.h"
#include "web.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TICK_MS = 1000, BATCH = 64 };

struct statistics statistics;

static int epoll = -1;
static int spare = -1; /* given up for a moment to turn a connection away at the limit of fds */

void watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl add");
}

void rewatch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event))
        die("epoll_ctl mod");
}

/* Without it a connection that can't be accepted would stay pending, and epoll report it for ever.
   False: there was none; at the limit accept() says EMFILE before it looks. */
static bool turn_away(int listener)
{
    close(spare);
    int fd = accept(listener, NULL, NULL);
    if (fd >= 0)
        close(fd);
    spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0;
}

static void accept_all(int listener)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            connection_open(fd);
        else if (errno == EMFILE ? !turn_away(listener) : errno != ECONNABORTED)
            return;
    }
}

static void loop(int listener)
{
    struct epoll_event ready[BATCH];
    int64_t next_tick = now_ms() + TICK_MS;

    while (!stopping) {
        int count = epoll_pwait(epoll, ready, BATCH, TICK_MS, &while_waiting);
        statistics.wakeups++;
        if (count < 0 && errno != EINTR)
            die("epoll_pwait");
        if (count < 0)
            statistics.interrupted++;
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener)
                accept_all(listener);
            else
                connection_ready(ready[i].data.fd);
        }
        if (now_ms() >= next_tick) {
            connections_sweep();
            next_tick = now_ms() + TICK_MS;
        }
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"root", required_argument, NULL, 'r'},
        {0},
    };
    uint16_t port = 0;
    const char *root = ".";
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'p')
            port = number_option("port", optarg, 0, UINT16_MAX);
        else if (option == 'r')
            root = optarg;
        else
            usage("web [--port N] [--root DIRECTORY]");
    }

    expect_stop_signals();
    cache_open(root);
    spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        die("epoll_create1");
    int listener = listen_on_loopback(&port);
    watch(listener, EPOLLIN);
    say("READY port=%u pid=%d", port, getpid());
    loop(listener);
    return 0;
}

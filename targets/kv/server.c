// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The threads: main accepts and hands each connection to the next worker, which keeps it. A worker
 * waits with a time limit, so each shows progress (STATS) even where nobody asks it anything.
 */
#define _GNU_SOURCE
#include "../common/target.h"
#include "kv.h"

#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TICK_MS = 20, BATCH = 64, BACK_OFF_MS = 10 };

struct client {
    int fd;
    uint32_t interest; /* what epoll is asked to report */
    size_t received;
    size_t sent; /* of the reply */
    char line[LINE_SIZE];
    struct reply reply;
};

static struct worker {
    pthread_t thread;
    pid_t tid;
    int epoll;
    _Atomic uint64_t commands;
    _Atomic uint64_t wakeups;
    _Atomic uint64_t interrupted; /* waits that ended with EINTR: no signal is sent to a worker */
} workers[MOST_THREADS];

static int worker_count = 8;
static pthread_barrier_t started; /* all workers, and main: it announces them */
static _Atomic uint64_t connections;

uint64_t server_connections(void)
{
    return connections;
}

void reply_line(struct reply *reply, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = sizeof(reply->text) - reply->used - 1;
    size_t size = vsnprintf(reply->text + reply->used, room, format, arguments);
    va_end(arguments);
    reply->used += size < room ? size : room - 1;
    reply->text[reply->used++] = '\n';
}

void reply_workers(struct reply *reply)
{
    for (int i = 0; i < worker_count; i++)
        reply_line(reply, "STAT worker.%d tid=%d,commands=%lu,wakeups=%lu,interrupted=%lu", i,
                   workers[i].tid, workers[i].commands, workers[i].wakeups, workers[i].interrupted);
}

/* Takes the line apart in place, at its first two blanks. */
static struct command split(char *line)
{
    struct command command = {line, "", ""};
    char *blank = strchr(line, ' ');
    if (!blank)
        return command;
    *blank = '\0';
    command.key = blank + 1;
    blank = strchr(blank + 1, ' ');
    if (!blank)
        return command;
    *blank = '\0';
    command.rest = blank + 1;
    return command;
}

/* Executes the whole lines that are there, while their answers surely fit. False: a line does not. */
static bool serve(struct worker *worker, struct client *client)
{
    char *line = client->line;
    char *end = client->line + client->received;
    for (char *newline; client->reply.used + REPLY_ROOM <= sizeof(client->reply.text) &&
                        (newline = memchr(line, '\n', end - line));
         line = newline + 1) {
        *newline = '\0';
        if (newline > line && newline[-1] == '\r')
            newline[-1] = '\0';
        struct command command = split(line);
        execute(&command, &client->reply);
        worker->commands++;
    }
    client->received = end - line;
    memmove(client->line, line, client->received);
    return client->received < sizeof(client->line) || memchr(client->line, '\n', client->received);
}

/* Sends what the socket takes. False: the peer is gone. */
static bool transmit(struct client *client)
{
    while (client->sent < client->reply.used) {
        ssize_t sent = send(client->fd, client->reply.text + client->sent,
                            client->reply.used - client->sent, 0);
        if (sent < 0)
            return errno == EAGAIN;
        client->sent += sent;
    }
    client->sent = client->reply.used = 0;
    return true;
}

static bool receive(struct client *client)
{
    ssize_t got = recv(client->fd, client->line + client->received,
                       sizeof(client->line) - client->received, 0);
    if (got < 0)
        return errno == EAGAIN;
    client->received += got;
    return got > 0;
}

static void hang_up(struct client *client)
{
    close(client->fd);
    free(client);
    connections--;
}

/* Lines that had no room for their answer are still in the buffer when the reply has gone out. */
static bool has_line(const struct client *client)
{
    return memchr(client->line, '\n', client->received) != NULL;
}

static void on_client(struct worker *worker, struct client *client)
{
    bool alive = client->reply.used ? transmit(client) : receive(client);
    if (alive && !client->reply.used) {
        do
            alive = serve(worker, client) && transmit(client);
        while (alive && !client->reply.used && has_line(client));
    }
    if (!alive) {
        hang_up(client);
        return;
    }
    uint32_t interest = client->reply.used ? EPOLLOUT : EPOLLIN;
    if (interest != client->interest) {
        struct epoll_event event = {.events = interest, .data.ptr = client};
        epoll_ctl(worker->epoll, EPOLL_CTL_MOD, client->fd, &event);
        client->interest = interest;
    }
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct epoll_event ready[BATCH];
    worker->tid = syscall(SYS_gettid);
    pthread_barrier_wait(&started);
    for (;;) {
        int count = epoll_wait(worker->epoll, ready, BATCH, TICK_MS);
        worker->wakeups++;
        if (count < 0 && errno == EINTR)
            worker->interrupted++;
        for (int i = 0; i < count; i++)
            on_client(worker, ready[i].data.ptr);
    }
    return NULL;
}

static void start_workers(void)
{
    pthread_barrier_init(&started, NULL, worker_count + 1);
    for (int i = 0; i < worker_count; i++) {
        workers[i].epoll = epoll_create1(EPOLL_CLOEXEC);
        if (workers[i].epoll < 0)
            die("epoll_create1");
        errno = pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        if (errno)
            die("pthread_create");
    }
    pthread_barrier_wait(&started);
}

static void hand_over(struct worker *worker, int fd)
{
    struct client *client = calloc(1, sizeof(*client));
    if (!client) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    client->fd = fd;
    client->interest = EPOLLIN;
    connections++;
    /* From here on the client is the worker's: it may have hung up before epoll_ctl returns. */
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event))
        hang_up(client);
}

static void accept_until_stopped(int listener)
{
    struct pollfd waiting = {.fd = listener, .events = POLLIN};
    for (unsigned next = 0; !stopping;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            hand_over(&workers[next++ % worker_count], fd);
        else if (errno == EAGAIN)
            ppoll(&waiting, 1, NULL, &while_waiting);
        else if (errno != ECONNABORTED)
            poll(NULL, 0, BACK_OFF_MS); /* out of descriptors, most likely: some will be freed */
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"threads", required_argument, NULL, 't'},
        {0},
    };
    uint16_t port = 0;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'p')
            port = number_option("port", optarg, 0, UINT16_MAX);
        else if (option == 't')
            worker_count = number_option("threads", optarg, 1, MOST_THREADS);
        else
            usage("kv [--port N] [--threads 8]");
    }

    expect_stop_signals(); /* before the workers start: they inherit the mask */
    int listener = listen_on_loopback(&port);
    start_workers();
    say("READY port=%u pid=%d threads=%d", port, getpid(), worker_count);
    accept_until_stopped(listener);
    return 0;
}

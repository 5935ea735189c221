// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The engine of the load generators: see load.h.
 *
 * Each connection has one question open at most, and asks the next when it is due. Times that were
 * missed by less than one interval are caught up with, so the rate is kept; a longer stall is not
 * followed by a burst. Latency is from a question's sending to the last byte of its answer.
 */
#define _GNU_SOURCE
#include "load.h"
#include "../common/target.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RETRY_US = 50000, BATCH = 64, READ_SIZE = 65536, MOST_CONNECTIONS = 1024 };

static struct {
    uint16_t port;
    int connections;
    long seconds, requests; /* requests 0: no limit but the time */
    long rate;              /* a second, over all connections; 0: as fast as answers come */
    int64_t slow_us, timeout_us;
    bool progress;
} options = {
    .connections = 8,
    .seconds = 10,
    .rate = 1000,
    .slow_us = 100000,
    .timeout_us = 5000000,
};

static const struct protocol *protocol;
static struct client *clients;
static int epoll = -1;
static int unanswered; /* clients that wait for their first answer */
static volatile sig_atomic_t progress_wanted;

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

static int64_t interval_us(void)
{
    return options.rate ? options.connections * INT64_C(1000000) / options.rate : 0;
}

/* ---- The life of a connection: down, connecting, idle, waiting, idle ... ---- */

static void watch(struct client *client, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(epoll, operation, client->fd, &event))
        die("epoll_ctl");
}

static void disconnect(struct client *client)
{
    if (client->state != CONNECTING && protocol->lost)
        protocol->lost(client);
    close(client->fd);
    client->state = DOWN;
    client->due = now_us() + RETRY_US;
}

static void drop(struct client *client)
{
    if (client->state == CONNECTING)
        counters.refused++;
    else
        counters.dropped++;
    disconnect(client);
}

static void begin_connection(struct client *client)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(options.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        die("socket");
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    client->state = CONNECTING;
    client->since = now_us();
    if (connect(client->fd, (struct sockaddr *)&address, sizeof(address)) && errno != EINPROGRESS)
        drop(client);
    else
        watch(client, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void end_connecting(struct client *client)
{
    int error = 0;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof(error)});
    if (error) {
        drop(client);
        return;
    }
    if (client->turn > 0)
        counters.reconnected++;
    client->state = IDLE;
    client->answer_size = 0;
    /* The first questions are spread over one interval, and stay so. */
    client->due = now_us() + interval_us() * client->id / options.connections;
    watch(client, EPOLL_CTL_MOD, EPOLLIN);
}

static void send_more(struct client *client)
{
    ssize_t sent = send(client->fd, client->ask + client->ask_sent,
                        client->ask_size - client->ask_sent, 0);
    if (sent < 0 && errno != EAGAIN) {
        drop(client);
        return;
    }
    client->ask_sent += sent > 0 ? sent : 0;
    bool more = client->ask_sent < client->ask_size;
    watch(client, EPOLL_CTL_MOD, more ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void ask(struct client *client)
{
    client->ask_size = protocol->ask(client, client->ask, sizeof(client->ask));
    client->ask_sent = 0;
    client->turn++;
    client->state = WAITING;
    client->since = now_us();
    send_more(client);
}

static void answered(struct client *client, size_t size)
{
    int64_t now = now_us();
    count_latency(now - client->since);
    counters.requests++;
    if (now - client->since > options.slow_us)
        counters.slow++;
    client->answer_size -= size;
    client->state = IDLE;
    client->due += interval_us();
    if (client->due < now - interval_us())
        client->due = now;
    if (client->answer_size > 0) {
        complain(client, "%zu bytes more than the answer", client->answer_size);
        disconnect(client);
    }
    if (!client->answered) {
        client->answered = true;
        if (--unanswered == 0)
            say("READY connections=%d pid=%d", options.connections, getpid());
    }
}

/* Reads what there is. False: the connection is no more. */
static bool read_answer(struct client *client)
{
    if (client->answer_room - client->answer_size < READ_SIZE) {
        client->answer_room = client->answer_size * 2 + READ_SIZE;
        client->answer = realloc(client->answer, client->answer_room);
        if (!client->answer)
            die("realloc");
    }
    ssize_t got = recv(client->fd, client->answer + client->answer_size,
                       client->answer_room - client->answer_size, 0);
    if (got < 0 && errno == EAGAIN)
        return true;
    if (got <= 0) {
        drop(client);
        return false;
    }
    client->answer_size += got;
    return true;
}

static void judge(struct client *client)
{
    if (client->state != WAITING) {
        if (client->answer_size > 0) {
            complain(client, "an answer that nobody asked for");
            disconnect(client);
        }
        return;
    }
    ssize_t size = protocol->judge(client, client->answer, client->answer_size);
    if (size == MALFORMED)
        disconnect(client); /* whoever judged has said what was wrong */
    else if (size > 0)
        answered(client, size);
}

/* ---- Many of them ---- */

static void on_event(struct client *client, uint32_t events)
{
    if (client->state == CONNECTING) {
        end_connecting(client);
        return;
    }
    if (client->state == WAITING && client->ask_sent < client->ask_size && (events & EPOLLOUT))
        send_more(client);
    if (client->state != DOWN && (events & ~EPOLLOUT) && read_answer(client))
        judge(client);
}

static void on_time(struct client *client, int64_t now)
{
    if (client->state == DOWN && client->due <= now) {
        begin_connection(client);
    } else if (client->state == IDLE && client->due <= now) {
        ask(client);
    } else if (client->state >= CONNECTING && client->state != IDLE &&
               now - client->since > options.timeout_us) {
        complain(client, "no answer within %ld ms", (long)(options.timeout_us / 1000));
        disconnect(client);
    }
}

/* Until the next client is due, in whole ms rounded up, that we do not spin. */
static int patience_ms(int64_t now)
{
    int64_t next = now + 1000000;
    for (int i = 0; i < options.connections; i++) {
        const struct client *client = &clients[i];
        int64_t due = client->state == DOWN || client->state == IDLE
                          ? client->due
                          : client->since + options.timeout_us + 1000;
        if (due < next)
            next = due;
    }
    return next <= now ? 0 : (next - now + 999) / 1000;
}

static void run(void)
{
    int64_t end = now_us() + options.seconds * 1000000;
    int64_t next_progress = now_us() + 1000000;
    struct epoll_event ready[BATCH];

    for (int64_t now; !stopping && (now = now_us()) < end;) {
        if (options.requests && counters.requests >= (uint64_t)options.requests)
            return;
        for (int i = 0; i < options.connections; i++)
            on_time(&clients[i], now);
        int count = epoll_pwait(epoll, ready, BATCH, patience_ms(now_us()), &while_waiting);
        for (int i = 0; i < count; i++)
            on_event(ready[i].data.ptr, ready[i].events);
        if (progress_wanted || (options.progress && now >= next_progress)) {
            progress_wanted = 0;
            next_progress = now + 1000000;
            report_progress();
        }
    }
}

static void on_usr1(int number)
{
    (void)number;
    progress_wanted = 1;
}

static void expect_usr1(void)
{
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    sigdelset(&while_waiting, SIGUSR1);
    signal(SIGUSR1, on_usr1);
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},       {"connections", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 's'},    {"requests", required_argument, NULL, 'n'},
        {"rate", required_argument, NULL, 'r'},       {"versions", required_argument, NULL, 'v'},
        {"slow-ms", required_argument, NULL, 'l'},    {"timeout-ms", required_argument, NULL, 't'},
        {"progress", no_argument, NULL, 'P'},         {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': options.port = number_option("port", optarg, 1, UINT16_MAX); break;
        case 'c': options.connections = number_option("connections", optarg, 1, MOST_CONNECTIONS); break;
        case 's': options.seconds = number_option("seconds", optarg, 1, 3600); break;
        case 'n': options.requests = number_option("requests", optarg, 1, 1000000000); break;
        case 'r': options.rate = number_option("rate", optarg, 0, 1000000); break;
        case 'v': allow_versions(optarg); break;
        case 'l': options.slow_us = number_option("slow-ms", optarg, 0, 3600000) * 1000; break;
        case 't': options.timeout_us = number_option("timeout-ms", optarg, 1, 3600000) * 1000; break;
        case 'P': options.progress = true; break;
        default: options.port = 0; optind = argc; break;
        }
    }
    if (!options.port)
        usage("load --port N [--connections 8] [--seconds 10] [--requests N] [--rate 1000]\n"
              "       [--versions 1,2] [--slow-ms 100] [--timeout-ms 5000] [--progress]");
}

int load_main(const struct protocol *chosen, int argc, char **argv)
{
    protocol = chosen;
    read_options(argc, argv);
    expect_stop_signals();
    expect_usr1();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc(options.connections, sizeof(*clients));
    if (epoll < 0 || !clients)
        die("load");
    for (int i = 0; i < options.connections; i++) {
        clients[i].id = i;
        clients[i].own = calloc(1, protocol->own_size);
        if (!clients[i].own)
            die("calloc");
    }
    unanswered = options.connections;

    int64_t begin = now_ms();
    run();
    report_json(now_ms() - begin);
    return counters.failures || counters.dropped || unanswered ? 1 : 0;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Calls with a timeout. signal(7), "Interruption of system calls and library functions by stop
 * signals", lists those that fail with EINTR after a stop even where no handler ran.
 */
#define _GNU_SOURCE
#include "sleepers.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void pipe_set_up(struct sleeper *s)
{
    require(pipe(s->fd) == 0, "pipe");
}

static void epoll_set_up(struct sleeper *s)
{
    s->fd[0] = epoll_create1(0);
    require(s->fd[0] >= 0, "epoll_create1");
}

static int nanosleep_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);

    (void)s;
    return expect_result(syscall(SYS_nanosleep, &timeout, NULL), 0);
}

static int clock_nanosleep_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);

    (void)s;
    return clock_nanosleep(CLOCK_MONOTONIC, 0, &timeout, NULL);
}

static int clock_nanosleep_absolute(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_MONOTONIC, ms);

    (void)s;
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static int poll_call(struct sleeper *s, int ms)
{
    struct pollfd poll_fd = {.fd = s->fd[0], .events = POLLIN};

    return expect_result(poll(&poll_fd, 1, ms), 0);
}

static int ppoll_call(struct sleeper *s, int ms)
{
    struct pollfd poll_fd = {.fd = s->fd[0], .events = POLLIN};
    struct timespec timeout = in_ms(ms);

    return expect_result(ppoll(&poll_fd, 1, &timeout, NULL), 0);
}

static int select_call(struct sleeper *s, int ms)
{
    struct timeval timeout = {.tv_usec = ms * 1000};
    fd_set readable;

    FD_ZERO(&readable);
    FD_SET(s->fd[0], &readable);
    return expect_result(syscall(SYS_select, s->fd[0] + 1, &readable, NULL, NULL, &timeout), 0);
}

static int pselect_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);
    fd_set readable;

    FD_ZERO(&readable);
    FD_SET(s->fd[0], &readable);
    return expect_result(pselect(s->fd[0] + 1, &readable, NULL, NULL, &timeout, NULL), 0);
}

static int epoll_wait_call(struct sleeper *s, int ms)
{
    struct epoll_event event;

    return expect_result(syscall(SYS_epoll_wait, s->fd[0], &event, 1, ms), 0);
}

static int epoll_pwait_call(struct sleeper *s, int ms)
{
    struct epoll_event event;
    sigset_t mask;

    sigprocmask(SIG_BLOCK, NULL, &mask);
    return expect_result(epoll_pwait(s->fd[0], &event, 1, ms, &mask), 0);
}

static int epoll_pwait2_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);
    struct epoll_event event;

    return expect_result(syscall(SYS_epoll_pwait2, s->fd[0], &event, 1, &timeout, NULL, 0), 0);
}

static long futex(void *word, int operation, int value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, operation, value, timeout, NULL, FUTEX_BITSET_MATCH_ANY);
}

static int futex_wait(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);

    return expect_errno(futex(&s->word, FUTEX_WAIT_PRIVATE, 0, &timeout), ETIMEDOUT);
}

static int futex_wait_bitset(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_MONOTONIC, ms);

    return expect_errno(futex(&s->word, FUTEX_WAIT_BITSET_PRIVATE, 0, &until), ETIMEDOUT);
}

static void futex_pi_set_up(struct sleeper *s)
{
    s->word = getpid(); /* the main thread holds it for ever */
}

static int futex_lock_pi(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_REALTIME, ms);

    return expect_errno(futex(&s->word, FUTEX_LOCK_PI_PRIVATE, 0, &until), ETIMEDOUT);
}

static int futex_waitv_call(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_MONOTONIC, ms);
    struct futex_waitv waiter = {.uaddr = (uintptr_t)&s->word, .flags = FUTEX_32};

    return expect_errno(syscall(SYS_futex_waitv, &waiter, 1, 0, &until, CLOCK_MONOTONIC),
                        ETIMEDOUT);
}

static void semaphore_set_up(struct sleeper *s)
{
    s->object = calloc(1, sizeof(sem_t));
    require(s->object && sem_init(s->object, 0, 0) == 0, "sem_init");
}

static int sem_timedwait_call(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_REALTIME, ms);

    return expect_errno(sem_timedwait(s->object, &until), ETIMEDOUT);
}

static int sem_clockwait_call(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_MONOTONIC, ms);

    return expect_errno(sem_clockwait(s->object, CLOCK_MONOTONIC, &until), ETIMEDOUT);
}

static int pthread_cond_timedwait_call(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_MONOTONIC, ms);
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
    int error;

    (void)s;
    pthread_mutex_lock(&mutex);
    error = pthread_cond_clockwait(&condition, &mutex, CLOCK_MONOTONIC, &until);
    pthread_mutex_unlock(&mutex);
    return error == ETIMEDOUT ? 0 : error ? error : ENODATA;
}

static void held_mutex_set_up(struct sleeper *s)
{
    s->object = calloc(1, sizeof(pthread_mutex_t));
    require(s->object && pthread_mutex_lock(s->object) == 0, "pthread_mutex_lock");
}

static int pthread_mutex_timedlock_call(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_MONOTONIC, ms);
    int error = pthread_mutex_clocklock(s->object, CLOCK_MONOTONIC, &until);

    return error == ETIMEDOUT ? 0 : error ? error : ENODATA;
}

static int sigtimedwait_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);
    sigset_t set;

    (void)s;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    return expect_errno(sigtimedwait(&set, NULL, &timeout), EAGAIN);
}

static void remove_semaphores(int id)
{
    semctl(id, 0, IPC_RMID);
}

static void semaphores_set_up(struct sleeper *s)
{
    s->fd[0] = semget(IPC_PRIVATE, 1, 0600);
    require(s->fd[0] >= 0, "semget");
    at_death(remove_semaphores, s->fd[0]);
}

static int semtimedop_call(struct sleeper *s, int ms)
{
    struct sembuf take = {.sem_op = -1};
    struct timespec timeout = in_ms(ms);

    return expect_errno(semtimedop(s->fd[0], &take, 1, &timeout), EAGAIN);
}

static void aio_set_up(struct sleeper *s)
{
    aio_context_t context = 0;

    require(syscall(SYS_io_setup, 8, &context) == 0, "io_setup");
    s->object = (void *)context;
}

static int io_getevents_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);
    struct io_event event;

    return expect_result(syscall(SYS_io_getevents, s->object, 1, 1, &event, &timeout), 0);
}

static int io_pgetevents_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);
    struct io_event event;

    return expect_result(syscall(SYS_io_pgetevents, s->object, 1, 1, &event, &timeout, NULL), 0);
}

/* Containers and kernel.io_uring_disabled forbid it. */
static bool io_uring_available(void)
{
    struct io_uring_params parameters = {0};
    int fd = syscall(SYS_io_uring_setup, 1, &parameters);

    return fd >= 0 && close(fd) == 0;
}

static void io_uring_set_up(struct sleeper *s)
{
    struct io_uring_params parameters = {0};

    s->fd[0] = syscall(SYS_io_uring_setup, 1, &parameters);
    require(s->fd[0] >= 0, "io_uring_setup");
}

static int io_uring_enter_call(struct sleeper *s, int ms)
{
    struct timespec timeout = in_ms(ms);
    struct io_uring_getevents_arg argument = {.ts = (uintptr_t)&timeout};
    unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;

    return expect_errno(
        syscall(SYS_io_uring_enter, s->fd[0], 0, 1, flags, &argument, sizeof argument), ETIME);
}

static void limit_receive(int fd, int ms)
{
    struct timeval timeout = {.tv_usec = ms * 1000};

    require(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0, "SO_RCVTIMEO");
}

static void pair_set_up(struct sleeper *s)
{
    require(socketpair(AF_UNIX, SOCK_STREAM, 0, s->fd) == 0, "socketpair");
    limit_receive(s->fd[0], s->timeout_ms);
}

static int recv_timeout(struct sleeper *s, int ms)
{
    char byte;

    (void)ms;
    return expect_errno(recv(s->fd[0], &byte, 1, 0), EAGAIN);
}

static int read_timeout(struct sleeper *s, int ms)
{
    char byte;

    (void)ms;
    return expect_errno(read(s->fd[0], &byte, 1), EAGAIN);
}

static void udp_set_up(struct sleeper *s)
{
    s->fd[0] = socket(AF_INET, SOCK_DGRAM, 0);
    require(s->fd[0] >= 0, "socket");
    limit_receive(s->fd[0], s->timeout_ms);
}

static int recvmmsg_timeout(struct sleeper *s, int ms)
{
    char byte;
    struct iovec piece = {&byte, 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &piece, .msg_iovlen = 1}};

    (void)ms;
    return expect_errno(recvmmsg(s->fd[0], &message, 1, 0, NULL), EAGAIN);
}

static void listen_set_up(struct sleeper *s)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    s->fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    require(bind(s->fd[0], (struct sockaddr *)&any, sizeof any) == 0, "bind");
    require(listen(s->fd[0], 4) == 0, "listen");
    limit_receive(s->fd[0], s->timeout_ms);
}

static int accept_timeout(struct sleeper *s, int ms)
{
    (void)ms;
    return expect_errno(accept(s->fd[0], NULL, NULL), EAGAIN);
}

static void queue_set_up(struct sleeper *s)
{
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 16};
    char name[32];

    snprintf(name, sizeof name, "/sleepers-%d", getpid());
    s->fd[0] = mq_open(name, O_RDWR | O_CREAT, 0600, &attributes);
    require(s->fd[0] >= 0, "mq_open");
    mq_unlink(name);
}

static int mq_timedreceive_call(struct sleeper *s, int ms)
{
    struct timespec until = after_ms(CLOCK_REALTIME, ms);
    char message[16];

    return expect_errno(mq_timedreceive(s->fd[0], message, sizeof message, NULL, &until),
                        ETIMEDOUT);
}

const struct call timed_calls[] = {
    {.name = "nanosleep", .timed = nanosleep_call},
    {.name = "clock_nanosleep", .timed = clock_nanosleep_call},
    {.name = "clock_nanosleep_absolute", .timed = clock_nanosleep_absolute},
    {.name = "poll", .timed = poll_call, .set_up = pipe_set_up},
    {.name = "ppoll", .timed = ppoll_call, .set_up = pipe_set_up},
    {.name = "select", .timed = select_call, .set_up = pipe_set_up},
    {.name = "pselect", .timed = pselect_call, .set_up = pipe_set_up},
    {.name = "epoll_wait", .timed = epoll_wait_call, .set_up = epoll_set_up},
    {.name = "epoll_pwait", .timed = epoll_pwait_call, .set_up = epoll_set_up},
    {.name = "epoll_pwait2", .timed = epoll_pwait2_call, .set_up = epoll_set_up},
    {.name = "futex_wait", .timed = futex_wait},
    {.name = "futex_wait_bitset", .timed = futex_wait_bitset},
    {.name = "futex_lock_pi", .timed = futex_lock_pi, .set_up = futex_pi_set_up},
    {.name = "futex_waitv", .timed = futex_waitv_call},
    {.name = "sem_timedwait", .timed = sem_timedwait_call, .set_up = semaphore_set_up},
    {.name = "sem_clockwait", .timed = sem_clockwait_call, .set_up = semaphore_set_up},
    {.name = "pthread_cond_timedwait", .timed = pthread_cond_timedwait_call},
    {.name = "pthread_mutex_timedlock",
     .timed = pthread_mutex_timedlock_call,
     .set_up = held_mutex_set_up},
    {.name = "sigtimedwait", .timed = sigtimedwait_call},
    {.name = "semtimedop", .timed = semtimedop_call, .set_up = semaphores_set_up},
    {.name = "io_getevents", .timed = io_getevents_call, .set_up = aio_set_up},
    {.name = "io_pgetevents", .timed = io_pgetevents_call, .set_up = aio_set_up},
    {.name = "io_uring_enter",
     .timed = io_uring_enter_call,
     .set_up = io_uring_set_up,
     .available = io_uring_available},
    {.name = "recv_timeout", .coarse = true, .timed = recv_timeout, .set_up = pair_set_up},
    {.name = "read_timeout", .coarse = true, .timed = read_timeout, .set_up = pair_set_up},
    {.name = "recvmmsg_timeout", .coarse = true, .timed = recvmmsg_timeout, .set_up = udp_set_up},
    {.name = "accept_timeout", .coarse = true, .timed = accept_timeout, .set_up = listen_set_up},
    {.name = "mq_timedreceive", .timed = mq_timedreceive_call, .set_up = queue_set_up},
    {0},
};

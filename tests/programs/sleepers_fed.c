/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Calls that wait for something, which the feeder gives; and calls that wait for nothing. */
#define _GNU_SOURCE
#include "sleepers.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Pipes and the like: one byte a time. */

static void pipe_set_up(struct sleeper *s)
{
    require(pipe(s->fd) == 0, "pipe");
}

static void pair_set_up(struct sleeper *s)
{
    require(socketpair(AF_UNIX, SOCK_STREAM, 0, s->fd) == 0, "socketpair");
}

static void write_byte(struct sleeper *s)
{
    require(write(s->fd[1], "x", 1) == 1, "write");
}

static int read_call(struct sleeper *s)
{
    char byte;

    return expect_result(read(s->fd[0], &byte, 1), 1);
}

static int recv_call(struct sleeper *s)
{
    char byte;

    return expect_result(recv(s->fd[0], &byte, 1, 0), 1);
}

static int poll_endless(struct sleeper *s)
{
    struct pollfd poll_fd = {.fd = s->fd[0], .events = POLLIN};
    int error = expect_result(poll(&poll_fd, 1, -1), 1);

    return error ? error : read_call(s);
}

static void epoll_set_up(struct sleeper *s)
{
    struct epoll_event event = {.events = EPOLLIN};

    pipe_set_up(s);
    s->word = epoll_create1(0);
    require(epoll_ctl(s->word, EPOLL_CTL_ADD, s->fd[0], &event) == 0, "epoll_ctl");
}

static int epoll_wait_endless(struct sleeper *s)
{
    struct epoll_event event;
    int error = expect_result(syscall(SYS_epoll_wait, s->word, &event, 1, -1), 1);

    return error ? error : read_call(s);
}

#define FULL_PIPE 4096

static void full_pipe_set_up(struct sleeper *s)
{
    static char page[FULL_PIPE];

    pipe_set_up(s);
    fcntl(s->fd[1], F_SETPIPE_SZ, FULL_PIPE);
    require(write(s->fd[1], page, FULL_PIPE) == FULL_PIPE, "write");
}

static int write_to_full_pipe(struct sleeper *s)
{
    static const char page[FULL_PIPE];

    return expect_result(write(s->fd[1], page, FULL_PIPE), FULL_PIPE);
}

static void drain_pipe(struct sleeper *s)
{
    static char page[FULL_PIPE];

    require(read(s->fd[0], page, FULL_PIPE) == FULL_PIPE, "read");
}

static void splice_set_up(struct sleeper *s)
{
    pipe_set_up(s);
    s->word = open("/dev/null", O_WRONLY);
}

static int splice_call(struct sleeper *s)
{
    return expect_result(splice(s->fd[0], NULL, s->word, NULL, 1, 0), 1);
}

static void eventfd_set_up(struct sleeper *s)
{
    s->fd[0] = s->fd[1] = eventfd(0, 0);
}

static int read_eventfd(struct sleeper *s)
{
    eventfd_t value;

    return expect_result(eventfd_read(s->fd[0], &value), 0);
}

static void write_eventfd(struct sleeper *s)
{
    require(eventfd_write(s->fd[1], 1) == 0, "eventfd_write");
}

static void signalfd_set_up(struct sleeper *s)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 4);
    s->fd[0] = signalfd(-1, &set, 0);
    require(s->fd[0] >= 0, "signalfd");
}

static int read_signalfd(struct sleeper *s)
{
    struct signalfd_siginfo info;

    return expect_result(read(s->fd[0], &info, sizeof info), sizeof info);
}

static void send_to_signalfd(struct sleeper *s)
{
    (void)s;
    require(kill(getpid(), SIGRTMIN + 4) == 0, "kill");
}

static void inotify_set_up(struct sleeper *s)
{
    char path[] = "/tmp/watched-XXXXXX";

    s->fd[0] = inotify_init();
    s->fd[1] = mkstemp(path);
    require(inotify_add_watch(s->fd[0], path, IN_MODIFY) >= 0, "inotify_add_watch");
    unlink(path);
}

static int read_inotify(struct sleeper *s)
{
    struct inotify_event event;

    return expect_result(read(s->fd[0], &event, sizeof event), sizeof event);
}

/* Sockets. */

static void listen_set_up(struct sleeper *s)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    s->fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    require(bind(s->fd[0], (struct sockaddr *)&any, sizeof any) == 0, "bind");
    require(listen(s->fd[0], 4) == 0, "listen");
}

static int accept_call(struct sleeper *s)
{
    int connection = accept(s->fd[0], NULL, NULL);

    if (connection < 0)
        return errno;
    close(connection);
    return 0;
}

static void connect_once(struct sleeper *s)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    struct linger reset = {.l_onoff = 1}; /* no TIME_WAIT left behind */
    int connection = socket(AF_INET, SOCK_STREAM, 0);

    getsockname(s->fd[0], (struct sockaddr *)&address, &size);
    require(connect(connection, (struct sockaddr *)&address, size) == 0, "connect");
    setsockopt(connection, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(connection);
}

/* Futexes and System V objects. */

static int futex_wait_endless(struct sleeper *s)
{
    while (s->word == 0)
        if (syscall(SYS_futex, &s->word, FUTEX_WAIT_PRIVATE, 0, NULL) < 0 && errno != EAGAIN)
            return errno;
    s->word = 0;
    return 0;
}

static void futex_wake(struct sleeper *s)
{
    s->word = 1;
    syscall(SYS_futex, &s->word, FUTEX_WAKE_PRIVATE, 1);
}

static void semaphore_set_up(struct sleeper *s)
{
    s->object = calloc(1, sizeof(sem_t));
    require(s->object && sem_init(s->object, 0, 0) == 0, "sem_init");
}

static int sem_wait_call(struct sleeper *s)
{
    return expect_result(sem_wait(s->object), 0);
}

static void sem_post_call(struct sleeper *s)
{
    sem_post(s->object);
}

static void remove_queue(int id)
{
    msgctl(id, IPC_RMID, NULL);
}

static void remove_semaphores(int id)
{
    semctl(id, 0, IPC_RMID);
}

struct message {
    long type;
    char text[1];
};

static void queue_set_up(struct sleeper *s)
{
    s->fd[0] = msgget(IPC_PRIVATE, 0600);
    require(s->fd[0] >= 0, "msgget");
    at_death(remove_queue, s->fd[0]);
}

static int msgrcv_call(struct sleeper *s)
{
    struct message message;

    return expect_result(msgrcv(s->fd[0], &message, sizeof message.text, 0, 0), 1);
}

static void send_message(struct sleeper *s)
{
    struct message message = {.type = 1};

    require(msgsnd(s->fd[0], &message, sizeof message.text, 0) == 0, "msgsnd");
}

static void semaphores_set_up(struct sleeper *s)
{
    s->fd[0] = semget(IPC_PRIVATE, 1, 0600);
    require(s->fd[0] >= 0, "semget");
    at_death(remove_semaphores, s->fd[0]);
}

static int semop_call(struct sleeper *s)
{
    struct sembuf take = {.sem_op = -1};

    return expect_result(semop(s->fd[0], &take, 1), 0);
}

static void raise_semaphore(struct sleeper *s)
{
    struct sembuf give = {.sem_op = 1};

    require(semop(s->fd[0], &give, 1) == 0, "semop");
}

/* Locks: the feeder holds the lock (`word` is 1) while the sleeper waits for it. */

typedef int lock_call(int fd, bool exclusive);

static int take_flock(int fd, bool exclusive)
{
    return flock(fd, exclusive ? LOCK_EX : LOCK_UN);
}

static int take_record_lock(int fd, bool exclusive)
{
    struct flock lock = {.l_type = exclusive ? F_WRLCK : F_UNLCK};

    return fcntl(fd, F_OFD_SETLKW, &lock);
}

static void lock_set_up(struct sleeper *s, lock_call *take)
{
    char path[64];

    s->fd[0] = memfd_create("lock", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd[0]);
    s->fd[1] = open(path, O_RDWR); /* an open file description of its own */
    require(take(s->fd[1], true) == 0, "lock");
    s->word = 1;
}

static int lock_when_held(struct sleeper *s, lock_call *take)
{
    int error;

    while (!s->word)
        usleep(500);
    error = expect_result(take(s->fd[0], true), 0);
    if (error == 0) {
        take(s->fd[0], false);
        s->word = 0;
    }
    return error;
}

static void pass_lock(struct sleeper *s, lock_call *take)
{
    take(s->fd[1], false);
    while (s->word)
        usleep(500);
    take(s->fd[1], true);
    s->word = 1;
}

static void flock_set_up(struct sleeper *s)
{
    lock_set_up(s, take_flock);
}

static int flock_call(struct sleeper *s)
{
    return lock_when_held(s, take_flock);
}

static void pass_flock(struct sleeper *s)
{
    pass_lock(s, take_flock);
}

static void setlkw_set_up(struct sleeper *s)
{
    lock_set_up(s, take_record_lock);
}

static int setlkw_call(struct sleeper *s)
{
    return lock_when_held(s, take_record_lock);
}

static void pass_record_lock(struct sleeper *s)
{
    pass_lock(s, take_record_lock);
}

/* Children: each ends when it gets its byte. */

static pid_t start_child(struct sleeper *s)
{
    pid_t child = fork();
    char byte;

    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(s->fd[0], &byte, 1) < 0 && errno == EINTR)
        ;
    _exit(7);
}

static int wait4_call(struct sleeper *s)
{
    pid_t child = start_child(s);
    int status, eintr = 0;

    while (wait4(child, &status, 0, NULL) < 0 && errno == EINTR)
        eintr = EINTR; /* not the next child before this one is gone */
    return eintr ? eintr : expect_result(WEXITSTATUS(status), 7);
}

static int waitid_call(struct sleeper *s)
{
    pid_t child = start_child(s);
    siginfo_t info = {0};
    int eintr = 0;

    while (waitid(P_PID, child, &info, WEXITED) < 0 && errno == EINTR)
        eintr = EINTR;
    return eintr ? eintr : expect_result(info.si_status, 7);
}

/* Signals. All threads block them: see main(). */

static int sigwaitinfo_call(struct sleeper *s)
{
    sigset_t set;

    (void)s;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 6);
    return expect_result(sigwaitinfo(&set, NULL), SIGRTMIN + 6);
}

static void send_to_sigwaitinfo(struct sleeper *s)
{
    (void)s;
    require(kill(getpid(), SIGRTMIN + 6) == 0, "kill");
}

static int pause_call(struct sleeper *s)
{
    (void)s;
    pause();
    return errno; /* EINTR, and no signal has a handler here */
}

static int sigsuspend_call(struct sleeper *s)
{
    sigset_t mask;

    (void)s;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    sigsuspend(&mask);
    return errno;
}

const struct call fed_calls[] = {
    {.name = "read", .set_up = pipe_set_up, .fed = read_call, .feed = write_byte},
    {.name = "recv", .set_up = pair_set_up, .fed = recv_call, .feed = write_byte},
    {.name = "poll_endless", .set_up = pipe_set_up, .fed = poll_endless, .feed = write_byte},
    {.name = "epoll_wait_endless",
     .set_up = epoll_set_up,
     .fed = epoll_wait_endless,
     .feed = write_byte},
    {.name = "write", .set_up = full_pipe_set_up, .fed = write_to_full_pipe, .feed = drain_pipe},
    {.name = "splice", .set_up = splice_set_up, .fed = splice_call, .feed = write_byte},
    {.name = "read_eventfd", .set_up = eventfd_set_up, .fed = read_eventfd, .feed = write_eventfd},
    {.name = "read_signalfd",
     .set_up = signalfd_set_up,
     .fed = read_signalfd,
     .feed = send_to_signalfd},
    {.name = "read_inotify", .set_up = inotify_set_up, .fed = read_inotify, .feed = write_byte},
    {.name = "accept", .set_up = listen_set_up, .fed = accept_call, .feed = connect_once},
    {.name = "futex_wait_endless", .fed = futex_wait_endless, .feed = futex_wake},
    {.name = "sem_wait", .set_up = semaphore_set_up, .fed = sem_wait_call, .feed = sem_post_call},
    {.name = "msgrcv", .set_up = queue_set_up, .fed = msgrcv_call, .feed = send_message},
    {.name = "semop", .set_up = semaphores_set_up, .fed = semop_call, .feed = raise_semaphore},
    {.name = "flock", .set_up = flock_set_up, .fed = flock_call, .feed = pass_flock},
    {.name = "setlkw", .set_up = setlkw_set_up, .fed = setlkw_call, .feed = pass_record_lock},
    {.name = "wait4", .set_up = pipe_set_up, .fed = wait4_call, .feed = write_byte},
    {.name = "waitid", .set_up = pipe_set_up, .fed = waitid_call, .feed = write_byte},
    {.name = "sigwaitinfo", .fed = sigwaitinfo_call, .feed = send_to_sigwaitinfo},
    {.name = "pause", .fed = pause_call},
    {.name = "sigsuspend", .fed = sigsuspend_call},
    {0},
};

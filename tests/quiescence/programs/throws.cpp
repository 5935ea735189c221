// SPDX-License-Identifier: GPL-2.0-or-later
// Threads in C++: exceptions thrown and caught, containers, callbacks, virtual calls, text. Signals
// interrupt them, whose handler looks at the clock for a while, by way of the vdso.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <sys/time.h>
#include <thread>
#include <time.h>
#include <unistd.h>
#include <vector>

namespace {

struct Shape {
    virtual ~Shape() = default;
    virtual long area(long depth) const = 0;
};

struct Square final : Shape {
    explicit Square(long side) : side(side) {}
    long area(long depth) const override { return depth ? area(depth - 1) : side * side; }
    long side;
};

struct Guard {
    explicit Guard(volatile long &count) : count(count) { count = count + 1; }
    ~Guard() { count = count - 1; }
    volatile long &count;
};

volatile long alive, sink;

[[gnu::noinline]] long throws_below(long depth)
{
    Guard guard(alive);
    if (!depth)
        throw std::runtime_error("out of depth");
    return throws_below(depth - 1) + 1;
}

[[gnu::noinline]] long catches(long depth)
{
    try {
        return throws_below(depth);
    } catch (const std::exception &error) {
        return std::string(error.what()).size();
    }
}

[[gnu::noinline]] long sorts(long seed)
{
    std::vector<std::string> words;
    for (long i = 0; i < 20; i++)
        words.push_back(std::to_string((seed * 7919 + i * 104729) % 1000));
    std::sort(words.begin(), words.end(), [](auto &a, auto &b) { return a < b; });
    std::map<std::string, long> counts;
    for (auto &word : words)
        counts[word]++;
    return counts.size();
}

[[gnu::noinline]] long formats(long number)
{
    std::ostringstream text;
    text << number << " and " << 1.5 * number;
    return text.str().size();
}

long now_us()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void on_timer(int)
{
    for (long begin = now_us(); now_us() < begin + 500;)
        ;
}

// Every few milliseconds of processor time; not in the calling thread.
void interrupt_others()
{
    struct sigaction action = {};
    action.sa_handler = on_timer;
    action.sa_flags = SA_RESTART;
    sigaction(SIGPROF, &action, nullptr);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPROF);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    itimerval every = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_PROF, &every, nullptr);
}

void work()
{
    std::function<long(long)> calls[] = {catches, sorts, formats};
    for (long i = 0;; i++) {
        Square square(i);
        const Shape &shape = square;
        sink = sink + calls[i % 3](i % 10) + shape.area(i % 5);
    }
}

} // namespace

int main()
{
    char byte;
    std::thread(work).detach();
    std::thread(work).detach();
    interrupt_others();
    std::printf("READY pid=%d\n", getpid());
    std::fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}

// SPDX-License-Identifier: GPL-2.0-or-later
// Threads in C++: exceptions thrown and caught, containers, callbacks, virtual calls, text.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
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
    std::printf("READY pid=%d\n", getpid());
    std::fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}

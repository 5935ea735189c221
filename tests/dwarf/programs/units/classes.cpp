/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Functions of namespaces, classes and templates: declared here, defined there, and inlined. */
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace shapes {

class Shape {
public:
    explicit Shape(int size) : size_(size) {}
    virtual ~Shape() = default;
    virtual int area() const;
    int twice() const { return 2 * area(); }

protected:
    int size_;
};

int Shape::area() const
{
    return size_ * size_;
}

class Round : public Shape {
public:
    using Shape::Shape;
    int area() const override { return 3 * size_ * size_ + Shape::area(); }
};

struct Counter {
    int value;
    __attribute__((noinline)) int add(int more) { return value += more; }
};

template <typename T> T largest(const std::vector<T> &values)
{
    auto compare = [](const T &a, const T &b) { return a < b; };
    return *std::max_element(values.begin(), values.end(), compare);
}

int hidden(const std::string &text)
{
    int sum = 0;
    for (char letter : text)
        sum += letter;
    return sum;
}
} // namespace shapes

int main(int argc, char **argv)
{
    shapes::Counter counter{argc};
    std::vector<int> values(argc, argc);
    values.push_back(counter.add(argc));
    shapes::Round round(argc);
    const shapes::Shape &shape = round;
    std::printf("%d %d\n", shape.twice(), shapes::largest(values));
    return shapes::hidden(argv[0]);
}

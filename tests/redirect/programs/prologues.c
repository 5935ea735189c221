/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Functions of many shapes, and a self-test that runs them all and sums up what they return. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#ifdef __clang__
#define API __attribute__((noinline, weak)) /* weak: what it returns isn't known elsewhere */
#else
#define API __attribute__((noinline, noclone, noipa))
#endif

static volatile int sink = 3;
static int counter;
static int table[16] = { 5, 3, 8, 1, 9, 2, 7, 4, 6, 0, 11, 13, 12, 15, 10, 14 };
static __thread int per_thread = 17;
static jmp_buf point;

#ifdef FENTRY /* what -mfentry calls first in each function: adds up where it was called from */
long called_from;
__asm__(".globl __fentry__\n"
        ".type __fentry__, @function\n"
        "__fentry__:\n"
        "    push %rax\n"
        "    mov 8(%rsp), %rax\n"
        "    push %rcx\n"
        "    mov called_from@GOTPCREL(%rip), %rcx\n"
        "    add %rax, (%rcx)\n"
        "    pop %rcx\n"
        "    pop %rax\n"
        "    ret\n"
        ".size __fentry__, .-__fentry__\n");
#endif

struct pair { long first, second; };
struct block { long words[6]; };

API void nothing(void) { }
API int one(void) { return 1; }
API int same(int x) { return x; }
API long long_one(void) { return 0x123456789abcdef; }
API float half(float x) { return x * 0.5f; }
API double third(void) { return 1.0 / 3; }
API int *address_of_counter(void) { return &counter; }
API int read_counter(void) { return counter; }
API int increment(void) { return ++counter; }
API int read_tls(void) { return per_thread++; }
API int absolute(int x) { return x < 0 ? -x : x; }
API int nested_if(int x) { if (!x) return 40; if (x == sink) return 41; return x + counter; }
API int tail_call(int x) { return absolute(x - 10); }
API void *tail_call_library(void *to, const void *from, size_t n) { return memcpy(to, from, n); }
API int indirect(int (*function)(int), int x) { return function(x) + 1; }
API int indirect_tail(int (*function)(int), int x) { return function(x); }

API size_t length(const char *s)
{
    size_t n = 0;
    while (*s++)
        n++;
    return n;
}

API int loop_at_entry(int x, int y)
{
    while (x < y)
        x = x * 2 + 1;
    return x;
}

API int collatz(unsigned n)
{
    int steps = 0;
    while (n != 1) {
        n = n % 2 ? 3 * n + 1 : n / 2;
        steps++;
    }
    return steps;
}

API int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }
API int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

API int interpret(const unsigned char *code, int x)
{
    for (;;) {
        switch (*code++) {
        case 0: return x;
        case 1: x += 3; break;
        case 2: x *= 5; break;
        case 3: continue;
        case 4: x ^= 7; break;
        case 5: x -= code[0]; break;
        case 6: x = absolute(x); break;
        default: x++;
        }
    }
}

API int computed_goto(const unsigned char *code, int x)
{
    static void *const labels[] = { &&stop, &&add, &&multiply, &&again };
again:
    goto *labels[*code++];
add:
    x += 2;
    goto again;
multiply:
    x *= 3;
    goto again;
stop:
    return x;
}

API int sum(int count, ...)
{
    va_list list;
    int total = 0;

    va_start(list, count);
    while (count--)
        total += va_arg(list, int);
    va_end(list);
    return total;
}

API double weigh(double a, double b, float c, int d) { return a * 2 + b * c - d; }
API long many(long a, long b, long c, long d, long e, long f, long g, long h)
{ return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h; }
API struct pair swap(struct pair p) { return (struct pair){ p.second, p.first }; }
API struct block fill(long x, struct block b)
{
    for (int i = 0; i < 6; i++)
        b.words[i] += x + i;
    return b;
}

API int large_frame(int x)
{
    volatile char buffer[9000];
    memset((char *)buffer, x, sizeof buffer);
    return buffer[x] + buffer[8999];
}

API int red_zone(int x)
{
    volatile int local[8];
    for (int i = 0; i < 8; i++)
        local[i] = x + i;
    return local[x & 7];
}

API int variable_frame(int n)
{
    volatile int items[n];
    for (int i = 0; i < n; i++)
        items[i] = table[i & 15];
    return items[n - 1];
}

API void jump_out(int x) { if (x) longjmp(point, x); }
API int jumps(int x)
{
    int got = setjmp(point);
    if (!got)
        jump_out(x);
    return got;
}

API int sort(int n)
{
    int items[16];

    memcpy(items, table, sizeof items);
    for (int i = 1; i < n; i++)
        for (int j = i; j && items[j - 1] > items[j]; j--) {
            int t = items[j];
            items[j] = items[j - 1];
            items[j - 1] = t;
        }
    return items[n / 2];
}

__attribute__((cold, noinline)) static int unlikely(int x) { return sink + x; }
API int has_cold_path(int x)
{
    if (__builtin_expect(x > 100, 0))
        return unlikely(x) * 2;
    return x + 1;
}

API unsigned long vector(const unsigned char *p, size_t n)
{
    unsigned long total = 0;
    for (size_t i = 0; i < n; i++)
        total += p[i] * 3u;
    return total;
}

API long selftest(void)
{
    static const unsigned char program[] = { 1, 3, 2, 4, 3, 3, 5, 6, 9, 0 };
    static const unsigned char steps[] = { 1, 2, 3, 1, 0 };
    char text[64] = "";
    struct block block = fill(4, (struct block){ { 1, 2, 3, 4, 5, 6 } });
    struct pair pair = swap((struct pair){ 77, 99 });
    long total = 0;

#define ADD(x) (total = total * 31 + (long)(x))
    counter = 0;
    per_thread = 17;
    nothing();
    ADD(one()); ADD(same(sink)); ADD(long_one()); ADD(half(9) * 2); ADD(third() * 999);
    ADD(*address_of_counter()); ADD(increment()); ADD(increment()); ADD(read_counter());
    ADD(read_tls()); ADD(read_tls()); ADD(absolute(-5)); ADD(absolute(5));
    ADD(nested_if(0)); ADD(nested_if(sink)); ADD(nested_if(9)); ADD(tail_call(3));
    ADD(length(tail_call_library(text, "twelve chars", 13))); ADD(length(""));
    ADD(indirect(same, 8)); ADD(indirect_tail(absolute, -8));
    ADD(loop_at_entry(1, 100)); ADD(loop_at_entry(7, 2)); ADD(collatz(27)); ADD(collatz(1));
    ADD(gcd(1071, 462)); ADD(fibonacci(11));
    ADD(interpret(program, 2)); ADD(computed_goto(steps, 4));
    ADD(sum(4, 1, 2, 3, 4)); ADD(sum(0)); ADD(weigh(1.5, 2.5, 2, 1));
    ADD(many(1, 2, 3, 4, 5, 6, 7, 8)); ADD(pair.first); ADD(pair.second);
    ADD(block.words[0]); ADD(block.words[5]); ADD(large_frame(5)); ADD(red_zone(6));
    ADD(variable_frame(9)); ADD(jumps(12)); ADD(jumps(0)); ADD(sort(16));
    ADD(has_cold_path(1)); ADD(has_cold_path(101)); ADD(vector(program, sizeof program));
    return total;
}

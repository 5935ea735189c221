/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef INNERMOST_H
#define INNERMOST_H

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline, noclone))

extern volatile int memory[64];

INLINE int innermost(int a)
{
    for (int i = 0; i < (a & 15); i++)
        memory[i] += a;
    return memory[a & 63] * 3;
}

#endif

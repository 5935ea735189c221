/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MIDDLE_H
#define MIDDLE_H

#include "innermost.h"

INLINE int middle(int a, int b)
{
    memory[1] = b;
    if (a > b)
        return innermost(a) - b;
    memory[2] = a;
    return innermost(b) + innermost(a ^ b);
}

#endif

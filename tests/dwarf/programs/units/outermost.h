/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OUTERMOST_H
#define OUTERMOST_H

#include "middle.h"

INLINE int outermost(int a)
{
    memory[3] = a;
    return middle(a, memory[4]) +
           middle(memory[5],
                  a);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The functions of crowd.c that its patches replace, and where it can be caught. */
#include "crowd.h"

DEFINE_CROWD(1, PATCHABLE)

PATCHABLE void pause_point(struct worker *worker)
{
    __asm__ volatile("" ::"r"(worker) : "memory");
}

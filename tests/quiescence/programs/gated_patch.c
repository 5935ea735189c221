/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For the functions of gated.S: the original, and some stack of its own. */
#include "gated.h"

#include <hotpatch.h>

#define REPLACE(name)                                                                              \
    long name(long a)                                                                              \
    {                                                                                              \
        volatile long values[20];                                                                  \
        values[a & 15] = a;                                                                        \
        return HOTPATCH_ORIGINAL(name)(values[a & 15]) + 1;                                        \
    }                                                                                              \
    HOTPATCH_REPLACE(name);

GATED(REPLACE)

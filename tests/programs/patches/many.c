/* SPDX-License-Identifier: GPL-2.0-or-later */
/* COUNT is ONE, FORTY or THOUSAND, VERSION a digit: many_forty_2.so makes 40 functions version 2. */
#include "../many.h"
#include <hotpatch.h>

#define REPLACE_VERSION(version, number)                                                           \
    DEFINE_VERSION(version, number)                                                                \
    HOTPATCH_REPLACE(f##number);
#define REPLACE_EXPANDED(version, number) REPLACE_VERSION(version, number)
#define REPLACE(number) REPLACE_EXPANDED(VERSION, number)

COUNT(REPLACE)

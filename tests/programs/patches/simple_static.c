/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Replaces the static function of simple.c and uses its static variable: 14, and loudness becomes 14. */
#include <hotpatch.h>

HOTPATCH_EXTERN_STATIC_DATA("simple.c", int, loudness);

static int whisper(void)
{
    loudness = 14;
    return loudness;
}
HOTPATCH_REPLACE_STATIC("simple.c", whisper);

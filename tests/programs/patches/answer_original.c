/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What it was, and ten more. */
#include <hotpatch.h>

int answer(void)
{
    return HOTPATCH_ORIGINAL(answer)() + 10;
}
HOTPATCH_REPLACE(answer);

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What text() returns lies in the patch: whoever keeps it, keeps the patch. */
#include <hotpatch.h>

const char *text(void)
{
    return "new";
}
HOTPATCH_REPLACE(text);

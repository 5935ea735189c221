// SPDX-License-Identifier: MIT
/* f00 alone. It adds 40 or a multiple to each sum, so that the target does not take it as mixed. */
#include "../forty.h"

#include <hotpatch.h>

int f00(void)
{
    return HOTPATCH_ORIGINAL(f00)() + 25 * FUNCTIONS;
}
HOTPATCH_REPLACE(f00);

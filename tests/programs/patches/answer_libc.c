/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Calls libc, through an IFUNC (strlen) too, and reads its data (environ, through a copy relocation or not). */
#include <hotpatch.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;
static const char *const words[] = {"two", "words"}; /* relocations in read-only data */

int answer(void)
{
    const char *volatile word = words[1];

    return (int)strlen(word) + (environ != NULL) + abs(-1); /* 7 */
}
HOTPATCH_REPLACE(answer);

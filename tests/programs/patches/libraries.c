/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For tls.c: functions of the program and of two libraries, by one patch. All answer 2, the last 12. */
#include "../tls.h"
#include <hotpatch.h>

int answer(void)
{
    return 2;
}
HOTPATCH_REPLACE(answer);

int linked_answer(void)
{
    return answer();
}
HOTPATCH_REPLACE(linked_answer);

int opened_answer(void)
{
    return HOTPATCH_ORIGINAL(opened_answer)() + linked_answer() + 9;
}
HOTPATCH_REPLACE(opened_answer);

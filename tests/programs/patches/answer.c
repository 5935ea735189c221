/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ANSWER is given by the Makefile: answer_2.so answers 2. */
#include <hotpatch.h>

int answer(void)
{
    return ANSWER;
}
HOTPATCH_REPLACE(answer);

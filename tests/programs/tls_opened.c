/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tls.h"

__thread long in_opened = 9;

long *opened_variable(void)
{
    return &in_opened;
}

int opened_answer(void)
{
    return 1;
}

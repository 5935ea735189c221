/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tls.h"

__thread long in_linked = 8;

int linked_answer(void)
{
    return 1;
}

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lent: a library that the program is linked with. */
int lent_value = 7;
__thread int lent_thread = 8;
static __thread volatile int lent_private = 11;
static volatile int lent_hidden = 12;

int lent(int x)
{
    return x + lent_value + lent_thread + lent_private + lent_hidden;
}

int lent_calls_itself(int x)
{
    return lent(x) + 1;
}

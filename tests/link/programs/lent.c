/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lent: a library that the program is linked with. */
int lent_value = 7;
__thread int lent_thread = 8;
static __thread volatile int lent_private = 11;
static volatile int lent_hidden = 12;

__attribute__((visibility("hidden"), noipa)) int lent_inside(void)
{
    return lent_hidden + 1;
}

__attribute__((noipa)) static int lent_static(void)
{
    return lent_hidden + 2;
}

int lent(int x)
{
    return x + lent_value + lent_thread + lent_private + lent_inside() + lent_static();
}

int lent_calls_itself(int x)
{
    return lent(x) + 1;
}

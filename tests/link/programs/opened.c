/* SPDX-License-Identifier: GPL-2.0-or-later */
/* opened: a library that the program opens later, so that its thread-local block is allocated. */
__thread int opened_thread = 21;
__thread char opened_much[16384];

int opened(int x)
{
    opened_much[0] = 1;
    return x + opened_thread++;
}

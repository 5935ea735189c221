/* SPDX-License-Identifier: GPL-2.0-or-later */
/* No manifest: for --replace answer, and --replace answer=other_answer. */
int answer(void)
{
    return 2;
}

int other_answer(void)
{
    return 4;
}

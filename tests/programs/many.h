/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A thousand names: THOUSAND(DO) is DO(000) DO(001) ... DO(999). For many.c and its patches. */
#ifndef MANY_H
#define MANY_H

#define ONE(DO) DO(000)
#define TEN(DO, tens)                                                                              \
    DO(tens##0) DO(tens##1) DO(tens##2) DO(tens##3) DO(tens##4)                                    \
    DO(tens##5) DO(tens##6) DO(tens##7) DO(tens##8) DO(tens##9)
#define FORTY(DO) TEN(DO, 00) TEN(DO, 01) TEN(DO, 02) TEN(DO, 03)
#define HUNDRED(DO, hundreds)                                                                      \
    TEN(DO, hundreds##0) TEN(DO, hundreds##1) TEN(DO, hundreds##2) TEN(DO, hundreds##3)            \
    TEN(DO, hundreds##4) TEN(DO, hundreds##5) TEN(DO, hundreds##6) TEN(DO, hundreds##7)            \
    TEN(DO, hundreds##8) TEN(DO, hundreds##9)
#define THOUSAND(DO)                                                                               \
    HUNDRED(DO, 0) HUNDRED(DO, 1) HUNDRED(DO, 2) HUNDRED(DO, 3) HUNDRED(DO, 4)                     \
    HUNDRED(DO, 5) HUNDRED(DO, 6) HUNDRED(DO, 7) HUNDRED(DO, 8) HUNDRED(DO, 9)

/* f123() of version 2 returns 2123: no two functions are alike, so the compiler folds none. */
#define DEFINE_VERSION(version, number)                                                            \
    int f##number(void)                                                                            \
    {                                                                                              \
        return version##number;                                                                    \
    }

#endif

/* SPDX-License-Identifier: MIT */
/* Forty functions by name: FORTY(X) is X(00) X(01) ... X(39). Shared by the target and its patch. */
#ifndef FORTY_H
#define FORTY_H

#define TEN(X, tens)                                                                               \
    X(tens##0) X(tens##1) X(tens##2) X(tens##3) X(tens##4) X(tens##5) X(tens##6) X(tens##7)        \
    X(tens##8) X(tens##9)
#define FORTY(X) TEN(X, 0) TEN(X, 1) TEN(X, 2) TEN(X, 3)

enum { FUNCTIONS = 40 };

#define DECLARE(n) int f##n(void);
FORTY(DECLARE)

int transaction(void); /* calls all forty: the sum of what they return */

#endif

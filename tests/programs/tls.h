/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What tls.c and its libraries export, for each other and for patches. */
#ifndef TLS_H
#define TLS_H

extern __thread long in_program;

extern __thread long in_linked;
int linked_answer(void);

extern __thread long
    in_opened; /* from tls_opened.c, as is what follows: not known when the program is linked */
long *opened_variable(void);
int opened_answer(void);

#endif

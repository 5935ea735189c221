/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A pre-fork server: a master forks N workers, which accept on one shared socket, and replaces
 * those that die. Each worker serves one connection at a time; a request is a line, and so is its
 * answer: `pid=P version=V served=N bytes=B sum=S`, where S is the Adler-32 of the line.
 *
 *   master.c    main, the master: the life of the workers
 *   worker.c    a worker: accepting, lines
 *   v1.c, v2.c  the answer: the part that has versions
 *
 * v1 -> v2  the sum takes in the last byte of the line, which it left out
 *
 * Output: `READY port=N pid=P workers=P,P,...`, and `RESTARTED old=P new=P` for each replacement.
 */
#ifndef PREFORK_H
#define PREFORK_H

#include <stddef.h>
#include <stdint.h>

enum { LINE_SIZE = 4096, REPLY_SIZE = 128 };

/* worker.c */
_Noreturn void work(int listener);

/* v1.c, v2.c */
int server_version(void);
size_t answer(const char *line, size_t size, char *reply); /* the size of the reply, with its \n */

#endif

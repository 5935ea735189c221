/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The functions of gated.S. */
#define GATED(DO)                                                                                  \
    DO(plain)                                                                                      \
    DO(pushes)                                                                                     \
    DO(frame)                                                                                      \
    DO(makes_room)                                                                                 \
    DO(calls_first)                                                                                \
    DO(calls_second)                                                                               \
    DO(loops_first)                                                                                \
    DO(branches_first)                                                                             \
    DO(by_padding)                                                                                 \
    DO(kept_frame)                                                                                 \
    DO(kept_pushes)

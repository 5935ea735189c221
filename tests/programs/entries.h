/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The functions of entries.S: DO(name, first argument, result when patched, which is one more a
   call). A loop among the displaced instructions stays there; one further on comes by the entry
   each time. */
#define ENTRIES(DO)                                                                                \
    DO(page_end_1, 0, 2)                                                                           \
    DO(page_end_2, 0, 2)                                                                           \
    DO(page_end_3, 0, 2)                                                                           \
    DO(page_end_4, 0, 2)                                                                           \
    DO(page_end_5, 0, 2)                                                                           \
    DO(page_end_6, 0, 2)                                                                           \
    DO(short_padded, 0, 2)                                                                         \
    DO(short_padded_with_int3, 0, 2)                                                               \
    DO(short_unpadded, 0, 2)                                                                       \
    DO(short_neighbour, 0, 2)                                                                      \
    DO(jmp_first, 0, 2)                                                                            \
    DO(jmp_short_first, 0, 2)                                                                      \
    DO(jmp_indirect_first, 0, 2)                                                                   \
    DO(jrcxz_first, 0, 2)                                                                          \
    DO(jcc_second, 0, 2)                                                                           \
    DO(call_first, 0, 2)                                                                           \
    DO(call_next_first, 0, 2)                                                                      \
    DO(call_indirect_first, 0, 2)                                                                  \
    DO(rip_relative_first, 0, 2)                                                                   \
    DO(rip_relative_with_immediate, 0, 2)                                                          \
    DO(rip_relative_lea, 0, 2)                                                                     \
    DO(branch_to_entry, 3, 2)                                                                      \
    DO(branch_to_entry_late, 3, 5)                                                                 \
    DO(branch_into_entry, -3, 2)                                                                   \
    DO(recursive, 3, 5)                                                                            \
    DO(endbr_first, 0, 2)                                                                          \
    DO(endbr_short, 0, 2)                                                                          \
    DO(nops_first, 0, 2)                                                                           \
    DO(long_first, 0, 2)                                                                           \
    DO(frame_first, 0, 2)                                                                          \
    DO(red_zone_first, 0, 2)                                                                       \
    DO(stack_argument_first, 0, 2)

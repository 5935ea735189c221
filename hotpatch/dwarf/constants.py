# SPDX-License-Identifier: GPL-2.0-or-later
"""The constants of DWARF call frame information, spelt as in the specifications.

`DW_CFA_*` and `DW_OP_*` are those of DWARF 5 (sections 7.24 and 7.7.1), the GNU extensions among
them and `DW_EH_PE_*` those of the Linux Standard Base, Core, "Exception Frames".
"""

from __future__ import annotations

from typing import Final

# Call frame instructions: the first three have an operand in their low six bits.
DW_CFA_advance_loc: Final = 0x40
DW_CFA_offset: Final = 0x80
DW_CFA_restore: Final = 0xC0
DW_CFA_nop: Final = 0x00
DW_CFA_set_loc: Final = 0x01
DW_CFA_advance_loc1: Final = 0x02
DW_CFA_advance_loc2: Final = 0x03
DW_CFA_advance_loc4: Final = 0x04
DW_CFA_offset_extended: Final = 0x05
DW_CFA_restore_extended: Final = 0x06
DW_CFA_undefined: Final = 0x07
DW_CFA_same_value: Final = 0x08
DW_CFA_register: Final = 0x09
DW_CFA_remember_state: Final = 0x0A
DW_CFA_restore_state: Final = 0x0B
DW_CFA_def_cfa: Final = 0x0C
DW_CFA_def_cfa_register: Final = 0x0D
DW_CFA_def_cfa_offset: Final = 0x0E
DW_CFA_def_cfa_expression: Final = 0x0F
DW_CFA_expression: Final = 0x10
DW_CFA_offset_extended_sf: Final = 0x11
DW_CFA_def_cfa_sf: Final = 0x12
DW_CFA_def_cfa_offset_sf: Final = 0x13
DW_CFA_val_offset: Final = 0x14
DW_CFA_val_offset_sf: Final = 0x15
DW_CFA_val_expression: Final = 0x16
DW_CFA_MIPS_advance_loc8: Final = 0x1D
DW_CFA_GNU_args_size: Final = 0x2E
DW_CFA_GNU_negative_offset_extended: Final = 0x2F

# Operations of expressions
DW_OP_addr: Final = 0x03
DW_OP_deref: Final = 0x06
DW_OP_const1u: Final = 0x08
DW_OP_const1s: Final = 0x09
DW_OP_const2u: Final = 0x0A
DW_OP_const2s: Final = 0x0B
DW_OP_const4u: Final = 0x0C
DW_OP_const4s: Final = 0x0D
DW_OP_const8u: Final = 0x0E
DW_OP_const8s: Final = 0x0F
DW_OP_constu: Final = 0x10
DW_OP_consts: Final = 0x11
DW_OP_dup: Final = 0x12
DW_OP_drop: Final = 0x13
DW_OP_over: Final = 0x14
DW_OP_pick: Final = 0x15
DW_OP_swap: Final = 0x16
DW_OP_rot: Final = 0x17
DW_OP_abs: Final = 0x19
DW_OP_and: Final = 0x1A
DW_OP_div: Final = 0x1B
DW_OP_minus: Final = 0x1C
DW_OP_mod: Final = 0x1D
DW_OP_mul: Final = 0x1E
DW_OP_neg: Final = 0x1F
DW_OP_not: Final = 0x20
DW_OP_or: Final = 0x21
DW_OP_plus: Final = 0x22
DW_OP_plus_uconst: Final = 0x23
DW_OP_shl: Final = 0x24
DW_OP_shr: Final = 0x25
DW_OP_shra: Final = 0x26
DW_OP_xor: Final = 0x27
DW_OP_bra: Final = 0x28
DW_OP_eq: Final = 0x29
DW_OP_ge: Final = 0x2A
DW_OP_gt: Final = 0x2B
DW_OP_le: Final = 0x2C
DW_OP_lt: Final = 0x2D
DW_OP_ne: Final = 0x2E
DW_OP_skip: Final = 0x2F
DW_OP_lit0: Final = 0x30
DW_OP_lit31: Final = 0x4F
DW_OP_breg0: Final = 0x70
DW_OP_breg31: Final = 0x8F
DW_OP_bregx: Final = 0x92
DW_OP_deref_size: Final = 0x94
DW_OP_nop: Final = 0x96

# Pointer encodings: the low four bits are the format, the next three what it is relative to.
DW_EH_PE_absptr: Final = 0x00
DW_EH_PE_uleb128: Final = 0x01
DW_EH_PE_udata2: Final = 0x02
DW_EH_PE_udata4: Final = 0x03
DW_EH_PE_udata8: Final = 0x04
DW_EH_PE_sleb128: Final = 0x09
DW_EH_PE_sdata2: Final = 0x0A
DW_EH_PE_sdata4: Final = 0x0B
DW_EH_PE_sdata8: Final = 0x0C
DW_EH_PE_pcrel: Final = 0x10
DW_EH_PE_textrel: Final = 0x20
DW_EH_PE_datarel: Final = 0x30
DW_EH_PE_funcrel: Final = 0x40
DW_EH_PE_aligned: Final = 0x50
DW_EH_PE_indirect: Final = 0x80
DW_EH_PE_omit: Final = 0xFF

# SPDX-License-Identifier: GPL-2.0-or-later
"""The constants of DWARF, spelt as in the specifications, as far as they are used here.

Those of DWARF 5 are in its chapter 7: `DW_CFA_*` in 7.24, `DW_OP_*` in 7.7.1, `DW_TAG_*` in 7.5.3,
`DW_AT_*` in 7.5.4, `DW_FORM_*` in 7.5.6, `DW_RLE_*` in 7.25, `DW_LN*` in 7.22, `DW_LANG_*` in 7.12.
The GNU extensions of call frame information and `DW_EH_PE_*` are those of the Linux Standard Base,
Core, "Exception Frames"; the others are gcc's (include/dwarf2.def of binutils).
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

# Unit types (7.5.1)
DW_UT_compile: Final = 0x01
DW_UT_type: Final = 0x02
DW_UT_partial: Final = 0x03
DW_UT_skeleton: Final = 0x04
DW_UT_split_compile: Final = 0x05
DW_UT_split_type: Final = 0x06

# Tags of debugging information entries: those that are looked for, or passed over.
DW_TAG_array_type: Final = 0x01
DW_TAG_class_type: Final = 0x02
DW_TAG_enumeration_type: Final = 0x04
DW_TAG_structure_type: Final = 0x13
DW_TAG_subroutine_type: Final = 0x15
DW_TAG_union_type: Final = 0x17
DW_TAG_inlined_subroutine: Final = 0x1D
DW_TAG_subprogram: Final = 0x2E
DW_TAG_call_site: Final = 0x48
DW_TAG_GNU_call_site: Final = 0x4109

# Attributes
DW_AT_sibling: Final = 0x01
DW_AT_name: Final = 0x03
DW_AT_stmt_list: Final = 0x10
DW_AT_low_pc: Final = 0x11
DW_AT_high_pc: Final = 0x12
DW_AT_language: Final = 0x13
DW_AT_comp_dir: Final = 0x1B
DW_AT_abstract_origin: Final = 0x31
DW_AT_specification: Final = 0x47
DW_AT_ranges: Final = 0x55
DW_AT_call_file: Final = 0x58
DW_AT_call_line: Final = 0x59
DW_AT_linkage_name: Final = 0x6E
DW_AT_str_offsets_base: Final = 0x72
DW_AT_addr_base: Final = 0x73
DW_AT_rnglists_base: Final = 0x74
DW_AT_MIPS_linkage_name: Final = 0x2007
DW_AT_GNU_addr_base: Final = 0x2133

# Forms of attributes
DW_FORM_addr: Final = 0x01
DW_FORM_block2: Final = 0x03
DW_FORM_block4: Final = 0x04
DW_FORM_data2: Final = 0x05
DW_FORM_data4: Final = 0x06
DW_FORM_data8: Final = 0x07
DW_FORM_string: Final = 0x08
DW_FORM_block: Final = 0x09
DW_FORM_block1: Final = 0x0A
DW_FORM_data1: Final = 0x0B
DW_FORM_flag: Final = 0x0C
DW_FORM_sdata: Final = 0x0D
DW_FORM_strp: Final = 0x0E
DW_FORM_udata: Final = 0x0F
DW_FORM_ref_addr: Final = 0x10
DW_FORM_ref1: Final = 0x11
DW_FORM_ref2: Final = 0x12
DW_FORM_ref4: Final = 0x13
DW_FORM_ref8: Final = 0x14
DW_FORM_ref_udata: Final = 0x15
DW_FORM_indirect: Final = 0x16
DW_FORM_sec_offset: Final = 0x17
DW_FORM_exprloc: Final = 0x18
DW_FORM_flag_present: Final = 0x19
DW_FORM_strx: Final = 0x1A
DW_FORM_addrx: Final = 0x1B
DW_FORM_ref_sup4: Final = 0x1C
DW_FORM_strp_sup: Final = 0x1D
DW_FORM_data16: Final = 0x1E
DW_FORM_line_strp: Final = 0x1F
DW_FORM_ref_sig8: Final = 0x20
DW_FORM_implicit_const: Final = 0x21
DW_FORM_loclistx: Final = 0x22
DW_FORM_rnglistx: Final = 0x23
DW_FORM_ref_sup8: Final = 0x24
DW_FORM_strx1: Final = 0x25
DW_FORM_strx2: Final = 0x26
DW_FORM_strx3: Final = 0x27
DW_FORM_strx4: Final = 0x28
DW_FORM_addrx1: Final = 0x29
DW_FORM_addrx2: Final = 0x2A
DW_FORM_addrx3: Final = 0x2B
DW_FORM_addrx4: Final = 0x2C
DW_FORM_GNU_addr_index: Final = 0x1F01
DW_FORM_GNU_str_index: Final = 0x1F02
DW_FORM_GNU_ref_alt: Final = 0x1F20
DW_FORM_GNU_strp_alt: Final = 0x1F21

# Range list entries
DW_RLE_end_of_list: Final = 0x00
DW_RLE_base_addressx: Final = 0x01
DW_RLE_startx_endx: Final = 0x02
DW_RLE_startx_length: Final = 0x03
DW_RLE_offset_pair: Final = 0x04
DW_RLE_base_address: Final = 0x05
DW_RLE_start_end: Final = 0x06
DW_RLE_start_length: Final = 0x07

# Line number programs: standard opcodes, extended ones, content types of the header's entries.
DW_LNS_copy: Final = 0x01
DW_LNS_advance_pc: Final = 0x02
DW_LNS_advance_line: Final = 0x03
DW_LNS_set_file: Final = 0x04
DW_LNS_set_column: Final = 0x05
DW_LNS_negate_stmt: Final = 0x06
DW_LNS_set_basic_block: Final = 0x07
DW_LNS_const_add_pc: Final = 0x08
DW_LNS_fixed_advance_pc: Final = 0x09
DW_LNS_set_prologue_end: Final = 0x0A
DW_LNS_set_epilogue_begin: Final = 0x0B
DW_LNS_set_isa: Final = 0x0C
DW_LNE_end_sequence: Final = 0x01
DW_LNE_set_address: Final = 0x02
DW_LNE_define_file: Final = 0x03
DW_LNCT_path: Final = 0x01
DW_LNCT_directory_index: Final = 0x02

# Languages of the C family, whose structures hold no functions.
DW_LANG_C89: Final = 0x01
DW_LANG_C: Final = 0x02
DW_LANG_C99: Final = 0x0C
DW_LANG_C11: Final = 0x1D
DW_LANG_C17: Final = 0x2C
DW_LANG_Mips_Assembler: Final = 0x8001

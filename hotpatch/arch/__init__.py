# SPDX-License-Identifier: GPL-2.0-or-later
"""What knows the machine: registers, instructions, relocation types, system call ABI (x86-64)."""

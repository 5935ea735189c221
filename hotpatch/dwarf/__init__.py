# SPDX-License-Identifier: GPL-2.0-or-later
"""DWARF as it lies in files: call frame information, source lines, inlined copies."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""A live target: its modules, its address space, and the record of patches that it carries."""

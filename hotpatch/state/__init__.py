# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing state transformers: what two builds' debug information says of them."""

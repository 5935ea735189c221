# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers that are patched while they serve: nobody loses a request, nothing is left behind.

HOTPATCH_PAIRS is how often a server is patched and reverted in one test (`make soak`: 1000).
"""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Redirecting functions: entry jumps, displaced instructions, gates. Bytes in, bytes out."""

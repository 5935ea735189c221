# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's security patches, made into live patches by `hotpatch build` and applied."""

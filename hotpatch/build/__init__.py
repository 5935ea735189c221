# SPDX-License-Identifier: GPL-2.0-or-later
"""Making patches from source: what a diff changes in object code, and only that."""

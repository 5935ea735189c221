# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the moment at which no thread executes in, or will return into, what is replaced."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a patch fits a target: what debug information says of the types of both."""

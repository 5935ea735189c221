# SPDX-License-Identifier: GPL-2.0-or-later
"""One file a shell: each makes a completion script of the table of commands."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Behaviours of updates, each on a real process, judged by what its threads answer and do."""

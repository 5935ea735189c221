# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of an update: plan, stage, arm, commit, settle; and revert.

`apply.py` and `revert.py` tell the story; each other module is a step of it. After any
system call of any of them the patcher may die: each says why that harms nobody.
"""

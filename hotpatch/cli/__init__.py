# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `hotpatch`: one file a command, and the only place that prints or exits.

`main.py` finds the command and turns whatever it raises into a message and an exit code; a
command is a module with OPERANDS, OPTIONS and `run`. Modules are imported by the commands that use
them, where they use them: starting fast is a feature.
"""

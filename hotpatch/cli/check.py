# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch check PID PATCH.so`: the whole plan and every verdict, with the target untouched."""

from __future__ import annotations

from hotpatch.cli import apply
from hotpatch.cli.arguments import Arguments
from hotpatch.cli.output import Output

OPERANDS = apply.OPERANDS
OPTIONS = apply.OPTIONS


def run(arguments: Arguments, output: Output) -> int:
    """Do what `apply --dry-run` does."""
    arguments.dry_run = True
    return apply.run(arguments, output)

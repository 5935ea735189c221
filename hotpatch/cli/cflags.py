# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch cflags`: the compiler flags that find `hotpatch.h`."""

from __future__ import annotations

from hotpatch.cli.arguments import Arguments, Option, Usage
from hotpatch.cli.output import Output

OPERANDS = ("",)
OPTIONS: tuple[Option, ...] = ()


def run(arguments: Arguments, output: Output) -> int:
    """Print them, quoted for a shell."""
    from shlex import quote  # noqa: PLC0415

    from hotpatch.build.linker import include_directory  # noqa: PLC0415

    if arguments.operands:
        raise Usage("cflags takes no operands")
    output.result(f"-I{quote(include_directory())}")
    return 0

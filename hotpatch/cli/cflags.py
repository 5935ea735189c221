# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch cflags`: the compiler flags that find `hotpatch.h`."""

from __future__ import annotations

import os

import hotpatch
from hotpatch.cli.arguments import Arguments, Option, Usage
from hotpatch.cli.output import Output
from hotpatch.errors import HotpatchError

OPERANDS = ("",)
OPTIONS: tuple[Option, ...] = ()


def run(arguments: Arguments, output: Output) -> int:
    """Print them, quoted for a shell."""
    from shlex import quote  # noqa: PLC0415

    if arguments.operands:
        raise Usage("cflags takes no operands")
    output.result(f"-I{quote(include_directory())}")
    return 0


def include_directory() -> str:
    """Return where the header is: in the package, be it installed or a checkout."""
    package = os.path.dirname(os.path.abspath(hotpatch.__file__))  # noqa: PTH100
    directory = os.path.join(package, "include")
    if not os.path.isfile(os.path.join(directory, "hotpatch.h")):  # noqa: PTH113
        raise HotpatchError(f"{directory}/hotpatch.h is missing", "install hotpatch again")
    return directory

# SPDX-License-Identifier: GPL-2.0-or-later
"""`hotpatch completion bash|zsh|fish`: the script that completes commands, options and operands.

source <(hotpatch completion bash)                    in ~/.bashrc
hotpatch completion zsh > ~/.zfunc/_hotpatch          in a directory of $fpath
hotpatch completion fish > ~/.config/fish/completions/hotpatch.fish
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from hotpatch.cli.arguments import HELP, Arguments, Command, Option, Usage
from hotpatch.cli.output import Output

SHELLS = ("bash", "zsh", "fish")
OPERANDS = ("|".join(SHELLS),)
OPTIONS: tuple[Option, ...] = ()


class Description(NamedTuple):
    """A command as a shell has to know it; `operands` in their order, such as PID, PATCH.so."""

    name: str
    summary: str
    options: tuple[Option, ...]
    operands: tuple[str, ...]


def run(arguments: Arguments, output: Output) -> int:
    """Print the script of a shell."""
    if len(arguments.operands) != 1 or arguments.operands[0] not in SHELLS:
        raise Usage("name one shell", f"it is one of {', '.join(SHELLS)}")
    shell = import_module(f"hotpatch.cli.shells.{arguments.operands[0]}")
    output.result(shell.script(descriptions()).rstrip("\n"))
    return 0


def descriptions() -> list[Description]:
    """Return all commands."""
    from hotpatch.cli.main import COMMANDS  # noqa: PLC0415

    return [_description(name, summary) for name, summary in COMMANDS.items()]


def _description(name: str, summary: str) -> Description:
    command: Command = import_module(f"hotpatch.cli.{name}")
    operands = tuple(word.strip("[]") for word in command.OPERANDS[0].split())
    return Description(name, summary, (*command.OPTIONS, HELP), operands)

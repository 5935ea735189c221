# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion for fish(1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotpatch.cli.arguments import Option
    from hotpatch.cli.completion import Description

_SCRIPT = """\
# fish completion of hotpatch; made by `hotpatch completion fish`

# Whether the word to complete is operand number $argv[2] of command $argv[1].
function __hotpatch_operand
    set -l words (commandline -opc)
    test "$words[2]" = $argv[1]; or return 1
    set -l number 1
    set -l skip 0
    for word in $words[3..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word @VALUES@
            set skip 1
            contains -- $word --exe --all-of; and set number (math $number + 1)
        else if not string match -q -- '-*' $word
            set number (math $number + 1)
        end
    end
    test $number = $argv[2]
end

complete -c hotpatch -f
@LINES@
"""


def script(commands: list[Description]) -> str:
    """Return the script."""
    options = {option for command in commands for option in command.options if option.metavar}
    values = " ".join(sorted(name for option in options for name in option.names))
    lines = [
        f"complete -c hotpatch -n __fish_use_subcommand -a {c.name} -d {_quoted(c.summary)}"
        for c in commands
    ]
    for command in commands:
        lines += [_option(command.name, option) for option in command.options]
        lines += [_operand(command.name, *pair) for pair in enumerate(command.operands, 1)]
    text = "\n".join(line for line in lines if line)
    return _SCRIPT.replace("@VALUES@", values).replace("@LINES@", text)


def _option(command: str, option: Option) -> str:
    names = " ".join(f"-s {n[1]}" if len(n) == 2 else f"-l {n[2:]}" for n in option.names)
    value = ""
    if option.metavar:
        value = " -r -F" if option.metavar == "PATH" else " -x"
    condition = _quoted(f"__fish_seen_subcommand_from {command}")
    return f"complete -c hotpatch -n {condition} {names}{value} -d {_quoted(option.help)}"


def _operand(command: str, position: int, operand: str) -> str:
    """Return the line for an operand, empty where there is nothing to complete."""
    if operand == "PID":
        choices = "(__fish_complete_pids)"
    elif operand.endswith(".so"):
        choices = "(__fish_complete_suffix .so)"
    elif "|" in operand:
        choices = operand.replace("|", " ")
    else:
        return ""
    condition = _quoted(f"__hotpatch_operand {command} {position}")
    return f"complete -c hotpatch -n {condition} -k -a {_quoted(choices)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion for zsh(1); see zshcompsys(1) for `_arguments`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotpatch.cli.arguments import Option
    from hotpatch.cli.completion import Description

_SCRIPT = """\
#compdef hotpatch
# zsh completion of hotpatch; made by `hotpatch completion zsh`

_hotpatch()
{
    local -a commands operands
    commands=(
@COMMANDS@
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    shift words
    (( CURRENT-- ))
    case $words[1] in
@CASES@
    esac
}

if [[ $funcstack[1] == _hotpatch ]]; then
    _hotpatch "$@"
else
    compdef _hotpatch hotpatch
fi
"""
_CASE = """\
    @NAME@)
        operands=(@OPERANDS@)
        (( $words[(I)--(exe|all-of)*] )) && operands=(@WITHOUT@)
        _arguments -s -S \\
@OPTIONS@
            $operands ;;"""


def script(commands: list[Description]) -> str:
    """Return the script."""
    names = "\n".join(f"        {_quoted(f'{c.name}:{c.summary}')}" for c in commands)
    cases = "\n".join(_case(command) for command in commands)
    return _SCRIPT.replace("@COMMANDS@", names).replace("@CASES@", cases)


def _case(command: Description) -> str:
    options = "\n".join(f"            {_option(option)} \\" for option in command.options)
    without = [operand for operand in command.operands if operand != "PID"]
    return (
        _CASE.replace("@NAME@", command.name)
        .replace("@OPERANDS@", _operands(command.operands))
        .replace("@WITHOUT@", _operands(without))
        .replace("@OPTIONS@", options)
    )


def _option(option: Option) -> str:
    """Return the specification of an option: `(exclusive)names[help]:metavar:completion`."""
    help_text = option.help.replace("[", "\\[").replace("]", "\\]")
    action = "_files" if option.metavar == "PATH" else " "
    value = f":{option.metavar}:{action}" if option.metavar else ""
    text = _quoted(f"[{help_text}]{value}")
    if option.repeat:
        return f"'*{option.names[0]}'{text}"
    if len(option.names) == 1:
        return option.names[0] + text
    return f"'({' '.join(option.names)})'{{{','.join(option.names)}}}{text}"


def _operands(operands: tuple[str, ...] | list[str]) -> str:
    return " ".join(_quoted(_operand(*pair)) for pair in enumerate(operands, 1))


def _operand(position: int, operand: str) -> str:
    if operand == "PID":
        return f"{position}:{operand}:_pids"
    if operand.endswith(".so"):
        return f'{position}:{operand}:_files -g "*.so"'
    if "|" in operand:
        return f"{position}:shell:({operand.replace('|', ' ')})"
    return f"{position}:{operand}: "


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"

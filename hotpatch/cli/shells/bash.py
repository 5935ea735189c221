# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion for bash(1), without the package bash-completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hotpatch.cli.completion import Description

_SCRIPT = """\
# bash completion of hotpatch; made by `hotpatch completion bash`

_hotpatch_files()  # directories, and files that match $2
{
    local file
    while IFS= read -r file; do
        [[ -d $file ]] && COMPREPLY+=("$file/")
        [[ -f $file && $file == $2 ]] && COMPREPLY+=("$file")
    done < <(compgen -f -- "$1")
    compopt -o filenames -o nospace 2>/dev/null
    (( ${#COMPREPLY[@]} == 1 )) && [[ ${COMPREPLY[0]} != */ ]] && compopt +o nospace 2>/dev/null
}

_hotpatch()
{
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local options='' values='' operands=() number=0 i
    COMPREPLY=()
    [[ $current == = ]] && current='' # --option=value comes as three words
    [[ $previous == = ]] && previous=${COMP_WORDS[COMP_CWORD-2]}
    if (( COMP_CWORD == 1 )); then
        mapfile -t COMPREPLY < <(compgen -W '@COMMANDS@ --help --version' -- "$current")
        return
    fi
    case ${COMP_WORDS[1]} in
@CASES@
    *) return ;;
    esac
    case " $values " in
    *" $previous "*)
        [[ $previous == --exe || $previous == --all-of ]] && _hotpatch_files "$current" '*'
        return ;;
    esac
    if [[ $current == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
        return
    fi
    for (( i = 2; i < COMP_CWORD; i++ )); do
        case ${COMP_WORDS[i]} in
        --exe | --all-of) operands=("${operands[@]:1}") ;;&
        -*)
            if [[ " $values " == *" ${COMP_WORDS[i]} "* ]]; then
                [[ ${COMP_WORDS[i+1]} == = ]] && (( i++ ))
                (( i++ ))
            fi ;;
        *) (( number++ )) ;;
        esac
    done
    case ${operands[number]} in
    PID) mapfile -t COMPREPLY < <(cd /proc && compgen -W "$(echo [0-9]*)" -- "$current") ;;
    *.so) _hotpatch_files "$current" '*.so' ;;
    *'|'*) mapfile -t COMPREPLY < <(compgen -W "${operands[number]//|/ }" -- "$current") ;;
    esac
}

complete -F _hotpatch hotpatch
"""


def script(commands: list[Description]) -> str:
    """Return the script."""
    cases = "\n".join(_case(command) for command in commands)
    names = " ".join(command.name for command in commands)
    return _SCRIPT.replace("@COMMANDS@", names).replace("@CASES@", cases)


def _case(command: Description) -> str:
    options = " ".join(name for option in command.options for name in option.names)
    values = " ".join(n for option in command.options if option.metavar for n in option.names)
    operands = " ".join(f"'{operand}'" for operand in command.operands)
    return f"    {command.name}) options='{options}' values='{values}' operands=({operands}) ;;"

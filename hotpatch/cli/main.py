# SPDX-License-Identifier: GPL-2.0-or-later
"""The entry point: finds the command, and turns what it raises into messages and exit codes.

Nothing but the command that is asked for is imported, and nothing at all to say which there are.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module

import hotpatch
from hotpatch.cli.output import Output, keep_standard_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from hotpatch.cli.arguments import Command

COMMANDS = {
    "apply": "apply a patch to a running process",
    "check": "say what applying a patch would do; the target is not touched",
    "revert": "take a patch out of a process",
    "list": "list the patches in a process, or in every process of the host",
    "build": "make a patch from a diff of the source, or from C written for it",
    "transform": "write the state transformers of what changed between two builds",
    "stacks": "show what every thread of a process is doing, and who would block a patch",
    "inspect": "say what a patch replaces, brings and needs",
    "cflags": "print the compiler flags that find hotpatch.h",
    "completion": "print the completion script of a shell",
}

# How many new objects are worth a look for garbage. With Python's own number, 700, looking takes
# 8 ms of an update, whose objects are mostly modules.
_GARBAGE = 100_000
_UPDATES = ("apply", "check", "revert")

# The nice value of an update. With 0, on a machine whose processors all have threads of the target
# to run, the tenth of a second that it needs takes more than one.

_HELP = """\
usage: hotpatch COMMAND [OPTIONS] ...

Changes the code of native Linux processes while they run.

commands:
{commands}
`hotpatch COMMAND --help` explains one; `hotpatch --version` says which hotpatch this is.

exit codes:
  0  done and read back         4  busy: not quiescent in time, target unchanged
  1  a defect of hotpatch       5  rolled back: code of the patch failed, target as before
  2  wrong usage                6  the process ended, or never was
  3  refused, target untouched  7  permission denied"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hotpatch` with these arguments (default: the process's own), return its exit code."""
    keep_standard_streams()
    gc.set_threshold(_GARBAGE)
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help", "-V", "--version"):
        output = Output()
        output.result(_about(name))
        return 0 if output.written() else 1
    if argv is None and name in _UPDATES:
        from hotpatch.linux.priority import hurry  # noqa: PLC0415

        hurry()
    code = _run(name, rest)
    gc.freeze()  # else Python looks at its exit, for 5 ms
    return code


def _about(option: str) -> str:
    if option in ("-V", "--version"):
        return f"hotpatch {hotpatch.__version__}"
    width = max(map(len, COMMANDS))
    rows = (f"  {name:<{width}}  {summary}\n" for name, summary in COMMANDS.items())
    return _HELP.format(commands="".join(rows))


def _run(name: str, argv: Sequence[str]) -> int:
    """Run one command; report what it raises."""
    from hotpatch.cli.arguments import explain, parse  # noqa: PLC0415

    output = Output(json="--json" in argv)
    try:
        command = _find(name)
        arguments = parse(command.OPTIONS, argv)
        if arguments.help:
            output = Output()
            output.result(explain(name, COMMANDS[name], command))
            code = 0
        else:
            output = Output(arguments.json, arguments.quiet, arguments.verbose, arguments.no_color)
            code = command.run(arguments, output)
    except (Exception, KeyboardInterrupt) as error:
        from hotpatch.cli.failure import failure_of, report  # noqa: PLC0415

        failure = failure_of(error)
        if name in _UPDATES and not output.touched:
            failure = failure.with_state("untouched")
        output.value(failure.fields)
        report(failure, output)
        code = failure.code
    if output.written() or name in _UPDATES:  # what was done to a target stands
        return code
    return code or 1


def _find(name: str) -> Command:
    from hotpatch.cli.arguments import Usage  # noqa: PLC0415

    if name in COMMANDS:
        command: Command = import_module(f"hotpatch.cli.{name}")
        return command
    reason = f"there is no command {name!r}" if name else "no command is given"
    raise Usage(reason, f"the commands are {', '.join(COMMANDS)}; see `hotpatch --help`")

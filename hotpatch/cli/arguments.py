# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: options as a table, from which it is parsed, explained and completed.

The order of options and operands is free, `--` ends the options, and a long option may be cut as
long as it stays unique: getopt_long(3), as everywhere on GNU systems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from hotpatch.cli.output import Output


class Usage(Exception):
    """Raised for a command line that means nothing; the command exits with 2."""

    def __init__(self, reason: str, hint: str = "", **details: Any) -> None:
        """Keep the sentences for people, and the fields that go with them."""
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.details = details


class Option(NamedTuple):
    """An option: `names` as they are typed, `metavar` where it takes a value.

    `convert` raises ValueError, with what was expected, for a value that is none.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    convert: Callable[[str], Any] = str
    repeat: bool = False

    @property
    def attribute(self) -> str:
        """Return its name in `Arguments`."""
        return self.names[-1].lstrip("-").replace("-", "_")


class Arguments:
    """A command line that was parsed; what was not given has the default of the interface."""

    def __init__(self) -> None:
        """Begin with nothing given."""
        self.operands: list[str] = []
        self.timeout = 10.0
        self.max_pause: float | None = None
        self.transfer_timeout = 5.0
        self.rehearse = False
        self.no_rehearse = False
        self.require_types = False
        self.probation: float | None = None
        self.health: str | None = None
        self.replace: list[str] = []
        self.update_point: list[str] = []
        self.exe: str | None = None
        self.all_of: str | None = None
        self.all = False
        self.output: str | None = None
        self.source: str | None = None
        self.diff: list[str] = []
        self.target: str | None = None
        self.build_command: str | None = None
        self.compile_commands: str | None = None
        self.old: str | None = None
        self.new: str | None = None
        self.keep: list[str] = []
        self.skip: list[str] = []
        self.changed_type: list[str] = []
        self.add: list[str] = []
        self.name: str | None = None
        self.description: str | None = None
        self.cve: list[str] = []
        self.type: list[str] = []
        self.work: str | None = None
        self.jobs: int | None = None
        self.dry_run = False
        self.force = False
        self.json = False
        self.quiet = False
        self.verbose = False
        self.no_color = False
        self.help = False


class Command(Protocol):
    """What a module of a command has."""

    OPERANDS: tuple[str, ...]
    OPTIONS: tuple[Option, ...]

    def run(self, arguments: Arguments, output: Output) -> int:
        """Do it, and return the exit code; raises Usage and the errors of `hotpatch.errors`."""


def seconds(text: str) -> float:
    """Return a time to wait; raises ValueError."""
    return _number(text, "a number of seconds, 0 or more", lambda value: value >= 0)


def milliseconds(text: str) -> float:
    """Return a length of a pause; raises ValueError."""
    return _number(text, "a number of milliseconds, more than 0", lambda value: value > 0)


def whole_number(text: str) -> int:
    """Return a count; raises ValueError."""
    if not text.isdecimal() or not int(text):
        raise ValueError("a number, 1 or more")
    return int(text)


def _number(text: str, wanted: str, good: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(wanted) from None
    if not good(value) or value == float("inf"):
        raise ValueError(wanted)
    return value


HELP = Option(("-h", "--help"), "say this")
JSON = Option(("--json",), "print one JSON object, and nothing else, on stdout")
QUIET = Option(("-q", "--quiet"), "print nothing but errors")
VERBOSE = Option(("-v", "--verbose"), "print more of what was found and done")
NO_COLOR = Option(("--no-color",), "no colours, as with NO_COLOR set")
EXE = Option(("--exe",), "the one process that runs this program, in place of PID", "PATH")
ALL_OF = Option(("--all-of",), "every process that runs this program, in place of PID", "PATH")
TIMEOUT = Option(
    ("--timeout",), "how long to wait for quiescence (default: 10)", "SECONDS", seconds
)
MAX_PAUSE = Option(
    ("--max-pause",), "give up rather than hold the target longer", "MS", milliseconds
)
TRANSFER_TIMEOUT = Option(
    ("--transfer-timeout",),
    "how long its checks and transfers may take (default: 5)",
    "SECONDS",
    seconds,
)
REHEARSE = Option(
    ("--rehearse",), "try its checks and transfers out in a replica before (the default)"
)
NO_REHEARSE = Option(("--no-rehearse",), "do not")
REPLACE = Option(
    ("--replace",),
    "what a shared object without a manifest replaces; repeatable",
    "OLD[=NEW]",
    repeat=True,
)
UPDATE_POINT = Option(
    ("--update-point",),
    "apply where threads are at the entry of this function, whatever called it; repeatable",
    "FUNCTION",
    repeat=True,
)
REQUIRE_TYPES = Option(
    ("--require-types",), "refuse a patch whose types can't be compared with the target's"
)
PROBATION = Option(
    ("--probation",),
    "watch it for so long, and take the patch out if its code fails",
    "SECONDS",
    seconds,
)
HEALTH = Option(
    ("--health",), "a shell command that fails where the patch is to be taken out again", "COMMAND"
)
DRY_RUN = Option(("--dry-run",), "say what would be done; the target is not touched")


def parse(options: Sequence[Option], argv: Sequence[str]) -> Arguments:
    """Return what a command line says; raises Usage."""
    from getopt import GetoptError, gnu_getopt  # noqa: PLC0415

    known = {name: option for option in (*options, HELP) for name in option.names}
    short = "".join(n[1] + ":" * bool(o.metavar) for n, o in known.items() if len(n) == 2)
    long = [n[2:] + "=" * bool(o.metavar) for n, o in known.items() if len(n) > 2]
    try:
        given, operands = gnu_getopt(list(argv), short, long)
    except GetoptError as error:
        raise Usage(error.msg, "see --help") from None
    arguments = Arguments()
    arguments.operands = operands
    for name, text in given:
        _set(arguments, known[name], name, text)
    return arguments


def _set(arguments: Arguments, option: Option, name: str, text: str) -> None:
    if not option.metavar:
        setattr(arguments, option.attribute, True)
        return
    try:
        value = option.convert(text)
    except ValueError as error:
        raise Usage(f"{name} {text!r} is not {error}", "see --help") from None
    if option.repeat:
        value = [*getattr(arguments, option.attribute), value]
    setattr(arguments, option.attribute, value)


def explain(name: str, summary: str, command: Command) -> str:
    """Return the help text of a command."""
    rows = []
    for option in (*command.OPTIONS, HELP):
        left = ", ".join(option.names) if len(option.names) > 1 else f"    {option.names[0]}"
        rows.append((f"{left} {option.metavar}".rstrip(), option.help))
    width = max(len(left) for left, _ in rows)
    forms = (f"hotpatch {name} [OPTIONS] {form}".rstrip() for form in command.OPERANDS)
    usage = "usage: " + "\n       ".join(forms)
    options = "\n".join(f"  {left:<{width}}  {right}" for left, right in rows)
    return f"{usage}\n\n{summary}\n\noptions:\n{options}"

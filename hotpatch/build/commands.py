# SPDX-License-Identifier: GPL-2.0-or-later
"""How a program is compiled: one command for each source file, recorded or read from a list.

While the build command runs, a directory of small scripts stands first in PATH. Each has the name
of a compiler, notes the arguments that it is called with, and goes on as that compiler. So it does
not matter what make, cmake or a script prints. The other way is a compile_commands.json ("JSON
Compilation Database", of clang).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from typing import Any, NamedTuple

from hotpatch.errors import Refused

_COMPILERS = (
    *("cc", "c++", "gcc", "g++", "clang", "clang++", "c89", "c99"),
    *(f"{machine}-{name}" for machine in ("x86_64-linux-gnu",) for name in ("gcc", "g++")),
)
_SOURCES = {".c": "c", ".cc": "c++", ".cpp": "c++", ".cxx": "c++", ".C": "c++", ".c++": "c++"}
# Options with an operand of its own that is no source file.
_WITH_OPERAND = frozenset((
    "-o", "-I", "-D", "-U", "-L", "-l", "-x", "-include", "-imacros", "-isystem", "-iquote",
    "-idirafter", "-iprefix", "-isysroot", "-MF", "-MT", "-MQ", "-Xlinker", "-Xassembler",
    "-Xpreprocessor", "-T", "-u", "-z", "-e", "-arch", "-target", "--param", "-Xclang",
))  # fmt: skip
_DROPPED = frozenset(("-c", "-MD", "-MMD", "-MP", "-MG", "-M", "-MM", "-save-temps", "-Werror"))
_DROPPED_WITH_OPERAND = frozenset(("-o", "-MF", "-MT", "-MQ", "-Xlinker"))
_DROPPED_BEGINNINGS = ("-Wl,", "-MF", "-save-temps=", "-Werror=")
_NO_COMPILATION = frozenset((
    "-E", "-S", "-M", "-MM", "-fsyntax-only", "--version", "-dumpversion", "-dumpmachine",
))  # fmt: skip
_SCRIPT = """#!/bin/sh
printf '%s\\0' "$PWD" "{compiler}" "$@" > "{log}/$$.$PPID"
exec "{compiler}" "$@"
"""


class Unit(NamedTuple):
    """A source file and the command that compiles it: the compiler first, no -o, no -c.

    `source` is relative to the source tree, `directory` is where the compiler runs.
    """

    source: str
    directory: str
    arguments: tuple[str, ...]
    file: str
    """The source file as the command names it."""
    language: str


class Recorder:
    """Runs a build command and notes the compilers' commands."""

    def __init__(self, work: str) -> None:
        """Use the directory `work` for the scripts and their notes."""
        self._bin = os.path.join(work, "bin")
        self._log = os.path.join(work, "log")

    def run(self, command: str, tree: str, output: str) -> list[Unit]:
        """Run a shell command in `tree`; what it prints goes to the file `output`.

        Raises Refused, with the end of its output, where it fails.
        """
        self._prepare()
        environment = {
            **os.environ,
            "PATH": f"{self._bin}:{os.environ.get('PATH', os.defpath)}",
            "CCACHE_DISABLE": "1",
        }
        with open(output, "wb") as sink:
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise Refused(
                f"the build command fails with {done.returncode}: {command}",
                f"see what it says in {output}",
                messages=_tail(output),
            )
        return units_of(self._calls(), tree)

    def _prepare(self) -> None:
        for directory in (self._bin, self._log):
            shutil.rmtree(directory, ignore_errors=True)
            os.makedirs(directory)
        for name in _COMPILERS:
            if compiler := shutil.which(name):
                path = os.path.join(self._bin, name)
                with open(path, "w") as script:
                    script.write(_SCRIPT.format(compiler=compiler, log=self._log))
                os.chmod(path, 0o755)

    def _calls(self) -> Iterable[tuple[str, list[str]]]:
        for name in sorted(os.listdir(self._log)):
            with open(os.path.join(self._log, name), "rb") as file:
                directory, *arguments = os.fsdecode(file.read()).rstrip("\0").split("\0")
            yield directory, arguments


def read_compile_commands(path: str, source: str, tree: str) -> list[Unit]:
    """Return the units of a compile_commands.json made in `source`, as they are in its copy `tree`.

    Raises Refused for a file that is none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
        calls = [_entry(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is no compile_commands.json: {error}", "see --help") from error
    moved = [
        (_moved(directory, source, tree), [_moved(a, source, tree) for a in arguments])
        for directory, arguments in calls
    ]
    return units_of(moved, tree)


def _entry(entry: Any) -> tuple[str, list[str]]:
    arguments = entry["arguments"] if "arguments" in entry else shlex.split(entry["command"])
    return str(entry["directory"]), [str(argument) for argument in arguments]


def _moved(text: str, source: str, tree: str) -> str:
    """Return an argument in which what points into the source tree points into its copy."""
    return tree if text == source else text.replace(source + os.sep, tree + os.sep)


def units_of(calls: Iterable[tuple[str, list[str]]], tree: str) -> list[Unit]:
    """Return the units that commands compile: pairs of a directory and arguments.

    Only sources within `tree` count; a command that only links has none. Each is there once.
    """
    found: dict[Unit, None] = {}
    for directory, arguments in calls:
        compiler, *rest = _expanded(arguments, directory)
        if _NO_COMPILATION.intersection(rest) or "conftest" in " ".join(rest):
            continue
        kept, sources = _sorted_out(rest)
        for file in sources:
            path = os.path.realpath(os.path.join(directory, file))
            if path.startswith(tree + os.sep):
                language = _SOURCES[os.path.splitext(file)[1]]
                source = os.path.relpath(path, tree)
                found[Unit(source, directory, (compiler, *kept), file, language)] = None
    return sorted(found)


def _expanded(arguments: list[str], directory: str) -> list[str]:
    """Return arguments with those of response files in the place of @FILE."""
    found: list[str] = []
    for argument in arguments:
        path = os.path.join(directory, argument[1:])
        if argument.startswith("@") and os.path.isfile(path):
            with open(path, errors="surrogateescape") as file:
                found += _expanded(shlex.split(file.read()), directory)
        else:
            found.append(argument)
    return found


def _sorted_out(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the options that say how to compile, and the source files."""
    kept: list[str] = []
    sources: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in _WITH_OPERAND:
            operand = next(rest, "")
            kept += [] if argument in _DROPPED_WITH_OPERAND else [argument, operand]
        elif argument in _DROPPED or argument.startswith(
            ("-Wl,", "-MF", "-save-temps=", "-Werror=")
        ):
            continue
        elif argument.startswith("-"):
            kept.append(argument)
        elif os.path.splitext(argument)[1] in _SOURCES:
            sources.append(argument)
    return kept, sources


def _tail(path: str) -> list[str]:
    with open(path, errors="replace") as file:
        return file.read().splitlines()[-20:]

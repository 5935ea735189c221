# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiling one unit, or looking up that it has been: the same text gives the same object.

An object is kept under the digest of all that it follows from: the compiler, its version, its
options, and the preprocessed source. So nothing is compiled twice, however often a diff is changed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hotpatch.build.commands import Unit
from hotpatch.errors import Refused

# Each function and variable in a section of its own: what compiles is otherwise the same.
SECTIONS = ("-ffunction-sections", "-fdata-sections")
# SOURCE_DATE_EPOCH: what __DATE__ and __TIME__ say (reproducible-builds.org), of 2000-01-01.
_ENVIRONMENT = {"SOURCE_DATE_EPOCH": "946684800", "LC_ALL": "C.UTF-8"}
_MOST_MESSAGES = 20


class Failed(Exception):
    """A unit that does not compile; `messages` are the compiler's."""

    def __init__(self, unit: Unit, messages: list[str]) -> None:
        """Keep both."""
        super().__init__(unit.source)
        self.unit = unit
        self.messages = messages


class Job(NamedTuple):
    """A unit to be compiled with further options."""

    unit: Unit
    options: tuple[str, ...]


class Compiler:
    """Compiles units of a tree into the directory `store`."""

    def __init__(self, store: str, tree: str, source: str, jobs: int | None = None) -> None:
        """Say `source` for `tree` in __FILE__ and in debug information; run `jobs` at once."""
        os.makedirs(store, exist_ok=True)
        self._store = store
        self._map = f"-ffile-prefix-map={tree}={source}"
        self._jobs = jobs or os.cpu_count() or 1
        self._versions: dict[str, str] = {}
        self.compiled = 0
        """How many objects were made, not found."""

    def version(self, unit: Unit) -> str:
        """Return what the compiler of a unit calls itself."""
        compiler = unit.arguments[0]
        if compiler not in self._versions:
            out = self._run([compiler, "--version"], unit).stdout.decode(errors="replace")
            self._versions[compiler] = (out.splitlines() or [compiler])[0]
        return self._versions[compiler]

    def objects(self, jobs: Iterable[Job]) -> list[str]:
        """Return the object file of each job; raises Failed."""
        jobs = list(jobs)
        for job in jobs:
            self.version(job.unit)
        with ThreadPoolExecutor(self._jobs) as pool:
            return list(pool.map(self._object, jobs))

    def dependencies(self, units: Iterable[Unit]) -> list[set[str]]:
        """Return the files that each unit includes, itself among them; real paths."""
        with ThreadPoolExecutor(self._jobs) as pool:
            return list(pool.map(self._dependencies, units))

    def _dependencies(self, unit: Unit) -> set[str]:
        done = self._run([*unit.arguments, "-M", "-MT", "x", unit.file], unit)
        if done.returncode:
            return {os.path.realpath(os.path.join(unit.directory, unit.file))}
        text = done.stdout.decode(errors="surrogateescape").replace("\\\n", " ")
        names = text.partition(":")[2].replace("\\ ", "\0").split()
        return {os.path.realpath(os.path.join(unit.directory, n.replace("\0", " "))) for n in names}

    def _object(self, job: Job) -> str:
        unit = job.unit
        command = [*unit.arguments, "-g", "-gz=none", self._map, *job.options]
        if any(argument.startswith("-flto") for argument in unit.arguments):
            command.append("-fno-lto")
        text = self._run([*command, "-E", unit.file], unit)
        if text.returncode:
            raise Failed(unit, _messages(text))
        key = hashlib.sha256()
        for part in (self.version(unit), *unit.arguments, *job.options, unit.file, unit.directory):
            key.update(part.encode(errors="surrogateescape") + b"\0")
        key.update(text.stdout)
        out = os.path.join(self._store, key.hexdigest()[:32] + ".o")
        if not os.path.exists(out):
            temporary = f"{out}.{os.getpid()}"
            done = self._run([*command, "-c", unit.file, "-o", temporary], unit)
            if done.returncode:
                raise Failed(unit, _messages(done))
            os.replace(temporary, out)
            self.compiled += 1
        return out

    @staticmethod
    def _run(command: list[str], unit: Unit) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                command,
                cwd=unit.directory,
                env={**os.environ, **_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise Refused(
                f"{unit.source}: its compiler {command[0]} can't be run: {error.strerror}",
                "install it, or give the build command that finds it",
            ) from error


def _messages(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode(errors="replace").splitlines()[:_MOST_MESSAGES]

# SPDX-License-Identifier: GPL-2.0-or-later
"""From a source tree and a diff to object files: each unit that the diff touches, old and new.

Both versions are compiled at one place, one after the other, so that nothing differs but the
source. A unit is touched if it is, or includes, a file that the diff changes, or if the build
compiles it again after the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import NamedTuple

from hotpatch.build.commands import Recorder, Unit, read_compile_commands
from hotpatch.build.compile import SECTIONS, Compiler, Failed, Job
from hotpatch.build.includes import includes
from hotpatch.build.tree import STRIPS, Diff, Tree
from hotpatch.errors import Refused

Report = Callable[[str, int, int], None]
_SOURCES = frozenset(
    [".c", ".h", ".cc", ".cpp", ".cxx", ".C", ".hh", ".hpp", ".hxx", ".inc", ".ipp", ".tcc"]
)
_MAKEFILES = ("GNUmakefile", "makefile", "Makefile")


class Compiled(NamedTuple):
    """A source file's objects; `run` is the old one as the program's own build makes it.

    `old` and `run` are None for a file that is new, `new` for one that is gone.
    """

    source: str
    old: str | None
    new: str | None
    run: str | None


class Touched(NamedTuple):
    """All that a diff touches."""

    compiled: tuple[Compiled, ...]
    files: tuple[str, ...]
    """What the diff changes, relative to the source tree."""
    compilers: tuple[str, ...]
    compiled_now: int
    """How many objects had to be compiled; the others were known."""


class Building(NamedTuple):
    """How to build: one of both, or neither where the tree says it."""

    command: str | None = None
    compile_commands: str | None = None
    jobs: int | None = None


def compile_touched(
    source: str, diffs: list[Diff], building: Building, work: str, report: Report
) -> Touched:
    """Compile what `diffs`, applied in this order to the directory `source`, touch.

    `work` is a directory for the copy of the source and the objects: the next time, what is in it
    need not be made again. Raises Refused.
    """
    source, work = os.path.realpath(source), os.path.realpath(work)
    os.makedirs(work, exist_ok=True)
    tree = Tree(source, os.path.join(work, "tree"))
    building = _chosen(building, tree)
    report("building", 0, 1)
    units = _old_units(tree, building, work)
    compiler = Compiler(os.path.join(work, "objects"), tree.path, source, building.jobs)
    report("finding what the diff touches", 0, 1)
    paths = _paths(tree, diffs)
    real = {os.path.realpath(path) for path in paths}
    known = includes(os.path.join(work, "includes.json"), compiler, tree, units)
    touched = [unit for unit, files in zip(units, known, strict=True) if files & real]
    saved = {path: _content(path) for path in paths}
    old = _compile(compiler, touched, True, "the source as it is", report)
    restored = False
    try:
        files = tuple(name for diff in diffs for name in diff.files(tree.apply(diff)))
        again = _new_units(tree, building, work, units) if _rebuilds(saved, files) else units
        fresh = set(again) - set(units)
        new_units = [u for u in again if (u in touched or u in fresh) and _exists(tree, u)]
        new = _compile(compiler, new_units, False, "the source with the diff", report)
    finally:
        restored = _restore(saved)
        if not restored or _rebuilds(saved, ()):
            tree.spoil()
    flags = [u for u in units if u not in touched and u.source in {f.source for f in fresh}]
    old.update(_compile(compiler, flags, True, "the source as it is", report))
    versions = {compiler.version(unit) for unit in (*old, *new)}
    return Touched(
        _paired(old, new), tuple(dict.fromkeys(files)), tuple(sorted(versions)), compiler.compiled
    )


def _paths(tree: Tree, diffs: list[Diff]) -> set[str]:
    """Return the files of the tree that diffs may be about: it is not known yet how to strip."""
    return {
        os.path.join(tree.path, name)
        for diff in diffs
        for strip in STRIPS
        for name in diff.files(strip)
        if name
    }


def _rebuilds(saved: dict[str, bytes | None], files: Iterable[str]) -> bool:
    """Tell whether a diff may change more than sources: what is generated, or how to compile."""
    existing = [path for path, content in saved.items() if content is not None]
    other = any(os.path.splitext(path)[1] not in _SOURCES for path in existing)
    return other or any(not any(path.endswith("/" + f) for path in existing) for f in files)


def _exists(tree: Tree, unit: Unit) -> bool:
    return os.path.exists(os.path.join(tree.path, unit.source))


def _compile(
    compiler: Compiler, units: list[Unit], plainly: bool, version: str, report: Report
) -> dict[Unit, list[str]]:
    """Compile units in sections, and also as the program's own build does where `plainly`."""
    ways = (SECTIONS, ()) if plainly else (SECTIONS,)
    report(f"compiling {version}", 0, len(units))
    try:
        found = compiler.objects(Job(unit, options) for unit in units for options in ways)
    except Failed as failed:
        raise Refused(
            f"{failed.unit.source} does not compile in {version}: "
            f"{next((m for m in failed.messages if 'error' in m), 'it says nothing')}",
            "see the compiler's messages",
            messages=failed.messages,
        ) from None
    step = len(ways)
    return {unit: found[i * step : (i + 1) * step] for i, unit in enumerate(units)}


def _paired(old: dict[Unit, list[str]], new: dict[Unit, list[str]]) -> tuple[Compiled, ...]:
    """Return both versions of each source file, which may be compiled in several ways."""
    found: list[Compiled] = []
    for source in sorted({unit.source for unit in (*old, *new)}):
        before = [old[unit] for unit in sorted(old) if unit.source == source]
        after = [new[unit] for unit in sorted(new) if unit.source == source]
        for pre, post in zip_longest(before, after):
            first, run = pre or (None, None)
            found.append(Compiled(source, first, post[0] if post else None, run))
    return tuple(found)


def _chosen(building: Building, tree: Tree) -> Building:
    """Return how to build, found out where it was not said."""
    if building.command or building.compile_commands:
        return building
    listed = os.path.join(tree.source, "compile_commands.json")
    if os.path.exists(listed):
        return building._replace(compile_commands=listed)
    if any(os.path.exists(os.path.join(tree.path, name)) for name in _MAKEFILES):
        return building._replace(command="make")
    raise Refused(
        f"it is not known how {tree.source} is built",
        "say it with --build-command, or with --compile-commands",
    )


def _old_units(tree: Tree, building: Building, work: str) -> list[Unit]:
    if building.compile_commands:
        tree.keep()
        return _some(read_compile_commands(building.compile_commands, tree.source, tree.path))
    if not building.command:
        raise ValueError("no way to build")
    known = os.path.join(work, "commands.json")
    if not tree.fresh and (units := _remembered(known, building.command)):
        return units
    tree.renew()
    units = _some(Recorder(work).run(building.command, tree.path, os.path.join(work, "build.log")))
    with open(known, "w") as file:
        json.dump({"command": building.command, "units": units}, file)
    tree.keep()
    return units


def _new_units(tree: Tree, building: Building, work: str, units: list[Unit]) -> list[Unit]:
    """Return the units of the new version: with the commands that the build has for them then."""
    if not building.command:
        return units
    output = os.path.join(work, "build-new.log")
    again = Recorder(work).run(building.command, tree.path, output)
    compiled = {unit.source for unit in again}
    return sorted({*again, *(unit for unit in units if unit.source not in compiled)})


def _some(units: list[Unit]) -> list[Unit]:
    if not units:
        raise Refused(
            "the build compiled nothing that could be seen",
            "it has to call its compiler by name (CC=gcc, not a path), and to compile in the "
            "source tree; or give --compile-commands",
        )
    return units


def _remembered(path: str, command: str) -> list[Unit]:
    try:
        with open(path) as file:
            known = json.load(file)
    except (OSError, ValueError):
        return []
    if known["command"] != command:
        return []
    return [Unit(s, d, tuple(a), f, language) for s, d, a, f, language in known["units"]]


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _restore(saved: dict[str, bytes | None]) -> bool:
    """Write back what files held before the diff; return whether that was possible."""
    try:
        for path, content in saved.items():
            if content is None:
                if os.path.lexists(path):
                    os.unlink(path)
            elif _content(path) != content:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(content)
    except OSError:
        return False
    return True

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files a unit includes: asked of its compiler once, and remembered.

What is remembered holds as long as the tree, its commands and their compilers are what they were,
and no header from outside has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from hotpatch.build.commands import Unit
from hotpatch.build.compile import Compiler
from hotpatch.build.tree import Tree

_VARIABLES = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH")  # gcc(1)


def includes(path: str, compiler: Compiler, tree: Tree, units: Sequence[Unit]) -> list[set[str]]:
    """Return the files of the tree that each unit includes, itself among them; real paths.

    They are remembered in the file at `path`.
    """
    key = hashlib.sha256(repr([tree.digest, *units]).encode(errors="surrogateescape"))
    for text in sorted({compiler.version(unit) for unit in units}):
        key.update(text.encode() + b"\0")
    for name in _VARIABLES:
        key.update(os.environ.get(name, "").encode(errors="surrogateescape") + b"\0")
    known = _known(path, key.hexdigest())
    if known is not None:
        return [set(files) for files in known]
    found = compiler.dependencies(units)
    inside = [sorted(file for file in files if _inside(file, tree)) for files in found]
    outside = {file for files in found for file in files if not _inside(file, tree)}
    kept = {
        "key": key.hexdigest(),
        "inside": inside,
        "outside": {file: _state(file) for file in sorted(outside)},
    }
    with open(path, "w") as out:
        json.dump(kept, out)
    return [set(files) for files in inside]


def _known(path: str, key: str) -> list[list[str]] | None:
    try:
        with open(path) as file:
            kept: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return None
    if kept["key"] != key or any(_state(f) != state for f, state in kept["outside"].items()):
        return None
    inside: list[list[str]] = kept["inside"]
    return inside


def _inside(file: str, tree: Tree) -> bool:
    return file.startswith(tree.path + os.sep)


def _state(file: str) -> list[int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Two builds without their sources: which object file of one is which of the other."""

from __future__ import annotations

import os

from hotpatch.build.make import Source
from hotpatch.errors import Refused


def paired_objects(old: str, new: str) -> list[Source]:
    """Return the object files of two directories that have the same path and another content.

    Raises Refused where there are none at all.
    """
    before, after = _objects(old), _objects(new)
    if not before or not after:
        raise Refused(
            f"{old if not before else new} has no object files (*.o)",
            "give the directories in which the program was built, before and after the change",
        )
    found = []
    for name in sorted({*before, *after}):
        first, second = before.get(name), after.get(name)
        if first is None or second is None or _content(first) != _content(second):
            found.append(Source(name, first, second, first))
    return found


def _objects(directory: str) -> dict[str, str]:
    """Return the object files below a directory by their path in it."""
    found = {}
    for place, _, files in os.walk(directory):
        for name in files:
            if name.endswith(".o"):
                path = os.path.join(place, name)
                found[os.path.relpath(path, directory)] = path
    return found


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the linker: it makes the shared object of the object file that was assembled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from tempfile import TemporaryDirectory

from hotpatch.errors import HotpatchError, Refused

_OPTIONS = (
    *("-shared", "-z", "now", "-z", "noexecstack", "-z", "max-page-size=4096"),
    *("--build-id=sha1", "--hash-style=gnu"),
)


def link_shared(content: bytes, out: str, more: Sequence[str] = (), *, exceptions: bool) -> None:
    """Make the shared object `out` of an object file's content, and of `more` of them.

    With `exceptions`, its frames are made known to the C++ run-time system. Raises Refused with
    what ld(1) says where it fails.
    """
    with TemporaryDirectory(prefix="hotpatch-") as directory:
        # The names are in the symbol table: they have to be the same each time.
        path = os.path.join(directory, "patch.o")
        with open(path, "wb") as file:
            file.write(content)
        first = [_compiled_unwinding(directory)] if exceptions else []
        link_objects([*first, path, *more], out)


def link_objects(paths: Sequence[str], out: str) -> None:
    """Make a shared object of object files; raises Refused with what ld(1) says."""
    done = run(["ld", *_OPTIONS, "-o", out, *paths], "install binutils")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise Refused(f"ld can't link the patch: {lines[0]}", "see `ld --version`", messages=lines)


def include_directory() -> str:
    """Return where hotpatch.h is: in the package, be it installed or a checkout."""
    directory = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "include")
    if not os.path.isfile(os.path.join(directory, "hotpatch.h")):
        raise HotpatchError(f"{directory}/hotpatch.h is missing", "install hotpatch again")
    return directory


def unwinding_source() -> str:
    """Return the source of what lets exceptions pass through a patch."""
    return os.path.join(include_directory(), "hotpatch_unwind.c")


def _compiled_unwinding(directory: str) -> str:
    """Return an object file that makes a patch's frames known; raises Refused."""
    source, path = unwinding_source(), os.path.join(directory, "unwind.o")
    command = [os.environ.get("CC", "cc"), "-O2", "-fPIC", "-fno-lto", "-c", "-o", path, source]
    done = run(command, "set CC")
    if done.returncode:
        raise Refused(f"{source} does not compile", "set CC", messages=done.stderr.splitlines())
    return path


def run(command: Sequence[str], hint: str) -> subprocess.CompletedProcess[str]:
    """Run a compiler or linker; raises Refused with the hint where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Refused(f"{command[0]} can't be run: {error.strerror}", hint) from error

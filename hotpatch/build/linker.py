# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the linker: it makes the shared object of the object file that was assembled."""

from __future__ import annotations

import os
import subprocess
from tempfile import TemporaryDirectory

from hotpatch.errors import Refused

_OPTIONS = (
    *("-shared", "-z", "now", "-z", "noexecstack", "-z", "max-page-size=4096"),
    *("--build-id=sha1", "--hash-style=gnu"),
)


UNWIND = "hotpatch_unwind.c"
"""In the directory of hotpatch.h: what lets exceptions pass through a patch."""


def link_shared(content: bytes, out: str, *, exceptions: bool) -> None:
    """Make the shared object `out` of an object file's content.

    With `exceptions`, its frames are made known to the C++ run-time system. Raises Refused with
    what ld(1) says where it fails.
    """
    with TemporaryDirectory(prefix="hotpatch-") as directory:
        # The names are in the symbol table: they have to be the same each time.
        path = os.path.join(directory, "patch.o")
        with open(path, "wb") as file:
            file.write(content)
        parts = [_compiled_unwinding(directory), path] if exceptions else [path]
        done = _run(["ld", *_OPTIONS, "-o", out, *parts], "install binutils")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        raise Refused(f"ld can't link the patch: {lines[0]}", "see `ld --version`", messages=lines)


def _compiled_unwinding(directory: str) -> str:
    """Return an object file that makes a patch's frames known; raises Refused."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    source = os.path.join(package, "include", UNWIND)
    path = os.path.join(directory, "unwind.o")
    command = [os.environ.get("CC", "cc"), "-O2", "-fPIC", "-fno-lto", "-c", "-o", path, source]
    done = _run(command, "set CC")
    if done.returncode:
        raise Refused(f"{source} does not compile", "set CC", messages=done.stderr.splitlines())
    return path


def _run(command: list[str], hint: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Refused(f"{command[0]} can't be run: {error.strerror}", hint) from error

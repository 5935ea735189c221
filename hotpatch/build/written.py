# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiling what is written by hand: whole patches, and what comes with a built one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from hotpatch.build.linker import include_directory, link_objects, run, unwinding_source
from hotpatch.elf.file import ElfFile
from hotpatch.errors import Refused
from hotpatch.patch.manifest import Manifest, read_manifest

_PLUS = (".cc", ".cpp", ".cxx", ".C")


class Part(NamedTuple):
    """A source file that comes with a built patch: its object, and what that declares."""

    source: str
    path: str
    manifest: Manifest


def compile_patch(sources: Sequence[str], out: str) -> None:
    """Compile a patch that is written by hand; raises Refused.

    CC, CFLAGS, CXX and CXXFLAGS are heeded. The frames of one in C++ are made known, before all.
    """
    plus = any(name.endswith(_PLUS) for name in sources)
    first = ["-x", "c", unwinding_source(), "-x", "none"] if plus else []
    _compile([*_compiler(plus), "-shared", "-o", out, *first, *sources], sources)


def compile_parts(sources: Sequence[str], directory: str) -> list[Part]:
    """Compile what comes with a built patch, into a directory; raises Refused."""
    parts = []
    for number, source in enumerate(sources):
        path = os.path.join(directory, f"part{number}.o")
        _compile([*_compiler(source.endswith(_PLUS)), "-c", "-o", path, source], [source])
        linked = path.removesuffix(".o") + ".so"
        link_objects([path], linked)
        manifest = read_manifest(ElfFile.open(linked))
        if manifest.types and not manifest.transfers:
            raise Refused(
                f"{source} declares that types change, and nothing carries the objects over that "
                "there are",
                "write a HOTPATCH_TRANSFER, be it one that knows there are none",
            )
        parts.append(Part(os.path.basename(source), path, manifest))
    return parts


def _compiler(plus: bool) -> list[str]:
    compiler = os.environ.get("CXX" if plus else "CC", "c++" if plus else "cc").split()
    flags = os.environ.get("CXXFLAGS" if plus else "CFLAGS", "-O2 -g").split()
    return [*compiler, *flags, f"-I{include_directory()}", "-fPIC"]


def _compile(command: list[str], sources: Sequence[str]) -> None:
    done = run(command, "set CC")
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise Refused(f"{', '.join(sources)} does not compile", "see the compiler's messages")

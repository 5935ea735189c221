# SPDX-License-Identifier: GPL-2.0-or-later
"""What `hotpatch transform` writes for struct changes of real servers.

    python -m bench.transform

The servers are those of two Debian releases, built with debug information. Their sources are
fetched by apt. For each type that has members and differs in both: its members in the new release,
how many of them are filled in without a human (copied, or new and 0), and how many are left. At the
end, whether the C file compiles as it is, with all warnings as errors.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.compiled import INCLUDE
from tests.support.debian import CACHE, upstream
from tests.support.programs import ROOT

_LEAST_MEMBERS = 3


class Server(NamedTuple):
    """A server in two releases, how it is built, and what the build makes."""

    name: str
    old: str
    new: str
    build: str
    program: str


SERVERS = (
    Server(
        "redis", "bullseye", "bookworm",
        "make -s -C src -j4 MALLOC=libc OPTIMIZATION=-O2 DEBUG=-g redis-server", "src/redis-server",
    ),
    Server(
        "memcached", "bookworm", "trixie",
        "touch configure aclocal.m4 Makefile.in config.h.in; ./configure -q && make -sj4 memcached",
        "memcached",
    ),
)  # fmt: skip


def built(server: Server, release: str) -> Path:
    """Build a server of a release, once; return the program."""
    directory = CACHE / release / f"{server.name}-built"
    program = directory / server.program
    if not program.exists():
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(upstream(server.name, release), directory, symlinks=True)
        subprocess.run(
            ["sh", "-c", server.build], cwd=directory, check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    return program


def main() -> None:
    """Measure, and print."""
    print(f"{'type':44} members  without a human  left")
    sums = [0, 0, 0]
    for server in SERVERS:
        old, new = built(server, server.old), built(server, server.new)
        out = CACHE / f"{server.name}.c"
        command = [sys.executable, "-m", "hotpatch", "transform", "--json", old, new, "-o", out]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        fields = json.loads(done.stdout)
        for found in fields["types"]:
            filled, left = found["copied"] + found["initialised"], found["left"]
            sums = [sums[0] + 1, sums[1] + filled, sums[2] + left]
            if filled + left >= _LEAST_MEMBERS:
                name = f"{server.name}: {found['type']}"
                print(f"{name:44} {filled + left:7} {filled:16} {left:5}")
        for compiler in ("gcc", "clang"):
            flags = ("-shared", "-fPIC", "-O2", "-g", "-Wall", "-Wextra", "-Werror")
            shared = out.with_suffix(".so")
            compiled = subprocess.run(
                [compiler, "-I", INCLUDE, *flags, out, "-o", shared], check=False
            )
            print(
                f"{out.name}: {'compiles' if not compiled.returncode else 'fails'} with {compiler}"
            )
        print(f"{server.name}: {len(fields['roots'])} roots, {len(fields['listed'])} things listed")
    print(f"{sums[0]} types, {sums[1] / (sums[1] + sums[2]):.1%} of their members without a human")


if __name__ == "__main__":
    main()

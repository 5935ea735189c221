# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers, built as Debian builds them, with one security patch missing, and under load."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.cves.probes import PASSWORD
from tests.support.debian import CACHE, build_flags, patches, upstream

RELEASE = "bookworm"
_CVE = re.compile(r"CVE-\d{4}-\d{4,}")


class Package(NamedTuple):
    """A source package: how Debian builds it (debian/rules), and what the build makes."""

    name: str
    build: str
    program: str
    environment: dict[str, str]


REDIS = Package(
    "redis",
    "make -s -j2 V=1 USE_SYSTEM_JEMALLOC=yes USE_SYSTEMD=yes USE_JEMALLOC=yes",
    "src/redis-server",
    {
        "DEB_BUILD_MAINT_OPTIONS": "hardening=+all",
        "DEB_CFLAGS_MAINT_APPEND": "-I/usr/include/liblzf",
        "DEB_LDFLAGS_MAINT_APPEND": "-Wl,-no-as-needed -ldl -latomic -llzf",
        "BUILD_TLS": "yes",
    },
)
MEMCACHED = Package(
    "memcached",
    "touch aclocal.m4 configure Makefile.in config.h.in; "
    # Debian leaves out the proxy and the password file, which its security patches are about.
    "test -f Makefile || ./configure -q --enable-sasl --enable-tls --enable-proxy "
    "--enable-sasl-pwdb && make -s -C vendor && make -s -j2 memcached",
    "memcached",
    {"DEB_BUILD_MAINT_OPTIONS": "hardening=+all"},
)
PACKAGES = {package.name: package for package in (REDIS, MEMCACHED)}


class Case(NamedTuple):
    """A security patch, and the source without it and those that came later."""

    package: Package
    patch: Path
    cves: tuple[str, ...]
    before: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Return what it is called in the table."""
        return ", ".join(self.cves)


def cases(package: Package) -> list[Case]:
    """Return the security patches of a package, in the order in which Debian took them up."""
    found, before = [], list[Path]()
    for patch in patches(package.name, RELEASE):
        text = patch.name + patch.read_text(errors="replace")
        changed = re.findall(r"^\+\+\+ \S+\.([a-z]+)", text, re.MULTILINE)
        cves = tuple(sorted(set(_CVE.findall(text))))
        if cves and {"c", "h"} & set(changed):
            found.append(Case(package, patch, cves, tuple(before)))
        before.append(patch)
    return found


class Built(NamedTuple):
    """A vulnerable server: its source, its stripped program, and the environment of its build."""

    source: Path
    program: Path
    environment: dict[str, str]


@contextmanager
def vulnerable(case: Case) -> Iterator[Built]:
    """Build the server without a patch; the program is stripped, its debug file lies beside it."""
    directory = Path(tempfile.mkdtemp(prefix="cve-", dir=CACHE))
    try:
        source, built = directory / "source" / case.package.name, directory / "built"
        shutil.copytree(upstream(case.package.name, RELEASE), source, symlinks=True)
        for patch in case.before:
            with patch.open() as text:
                subprocess.run(
                    ["patch", "-s", "-p1", "-d", source], stdin=text, check=True,
                    stdout=subprocess.DEVNULL,
                )  # fmt: skip
        environment = build_flags(source, **case.package.environment)
        environment.update(case.package.environment)
        shutil.copytree(source, built, symlinks=True)
        run_build(case.package.build, built, environment)
        program = directory / Path(case.package.program).name
        shutil.copy(built / case.package.program, program)
        shutil.rmtree(built)
        strip(program)
        yield Built(source, program, environment)
    finally:
        shutil.rmtree(directory)


def run_build(command: str, directory: Path, environment: dict[str, str]) -> None:
    """Build a package as Debian does."""
    import os  # noqa: PLC0415

    done = subprocess.run(
        ["sh", "-c", command], cwd=directory, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command} fails in {directory}:\n{done.stderr[-2000:]}")


def strip(program: Path) -> None:
    """Do what dh_strip does: the debug information goes into a file of its own."""
    debug = program.with_suffix(".debug")
    for command in (
        ["objcopy", "--only-keep-debug", program, debug],
        ["strip", "--strip-unneeded", "--remove-section=.comment", program],
        ["objcopy", f"--add-gnu-debuglink={debug}", program],
    ):
        subprocess.run(command, check=True, cwd=program.parent)


class Server:
    """A process of a server, which listens on a socket in a directory of its own."""

    def __init__(self, package: Package, program: Path) -> None:
        """Start it, and wait until it can be asked."""
        self.directory = tempfile.mkdtemp(prefix="server-")
        self.socket = f"{self.directory}/socket"
        self._package = package
        options = {
            "redis": [
                *("--port", "0", "--unixsocket", self.socket, "--dir", self.directory),
                *("--save", "", "--requirepass", PASSWORD, "--enable-debug-command", "yes"),
            ],
            "memcached": ["-s", self.socket, "-u", "root", "-v"],
        }[package.name]
        self.process = subprocess.Popen(
            [program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.pid = self.process.pid
        from tests.support.programs import wait_until  # noqa: PLC0415

        wait_until(lambda: Path(self.socket).exists(), "the server listens")

    def load(self) -> subprocess.Popen[str]:
        """Start clients that end with an error at the first answer that is one."""
        if self._package.name == "redis":
            command = ["redis-benchmark", "-s", self.socket, "-a", PASSWORD, "-c", "8", "-q",
                       "-n", "400000", "-t", "set,get,incr"]  # fmt: skip
        else:
            import sys  # noqa: PLC0415

            command = [sys.executable, "-m", "tests.cves.memload", self.socket]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def alive(self) -> bool:
        """Tell whether it runs."""
        return self.process.poll() is None

    def end(self) -> None:
        """End it, and remove what it left."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory)

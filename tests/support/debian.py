# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's source packages, fetched by apt with its checks, and kept in .cache.

apt gets lists and a state of its own for that: the machine's configuration stays what it is.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from tests.support.programs import ROOT

CACHE = ROOT / ".cache" / "debian"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_MIRROR = "http://deb.debian.org/debian"
_ENTRY = "deb-src [signed-by={}] {} {} main\n"


@functools.cache
def _apt(release: str) -> tuple[str, ...]:
    """Return an apt-get that knows the sources of one release, and of its security updates."""
    state = CACHE / release / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    suites = [(_MIRROR, release)]
    if release == "bookworm":
        suites += [(_MIRROR, "bookworm-updates"), (f"{_MIRROR}-security", "bookworm-security")]
    entries = (_ENTRY.format(_KEYRING, mirror, suite) for mirror, suite in suites)
    (state / "sources.list").write_text("".join(entries))
    options = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": state / "lists",
        "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ("apt-get", "-qq", *(w for k, v in options.items() for w in ("-o", f"{k}={v}")))
    if not (state / "updated").exists():
        subprocess.run([*apt, "update"], check=True)
        (state / "updated").touch()
    return apt


def package(name: str, release: str) -> Path:
    """Return the directory with a source package's files: .dsc, .orig.tar.*, .debian.tar.*."""
    directory = CACHE / release / name
    if not (directory / "complete").exists():
        directory.mkdir(parents=True, exist_ok=True)
        apt = _apt(release)
        command = [*apt, "source", "--download-only", name]
        done = subprocess.run(command, cwd=directory, check=False)
        if done.returncode:  # some mirrors have lost a part; what was there may be enough
            print(f"not all of {name} in {release} could be fetched")
        else:
            (directory / "complete").touch()
    return directory


def upstream(name: str, release: str) -> Path:
    """Return the upstream source of a package, without Debian's patches, in a fresh directory."""
    files = package(name, release)
    (archive,) = files.glob(f"{name}_*.orig.tar.*[!c]")
    target = files / "upstream"
    if not target.exists():
        target.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", target, "--strip-components=1"], check=True)
    return target


def patches(name: str, release: str) -> list[Path]:
    """Return Debian's patches to a package, in their order."""
    files = package(name, release)
    (archive,) = files.glob(f"{name}_*.debian.tar.*")
    if not (files / "debian").exists():
        subprocess.run(["tar", "-xf", archive, "-C", files], check=True)
    series = (files / "debian" / "patches" / "series").read_text().splitlines()
    names = [line.split()[0] for line in series if line.strip() and not line.startswith("#")]
    return [files / "debian" / "patches" / name for name in names]


def build_flags(directory: Path, **more: str) -> dict[str, str]:
    """Return the environment in which Debian builds a package in `directory`."""
    environment = {**os.environ, **more}
    command = ["dpkg-buildflags", "--export=sh"]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=True
    )
    flags = {}
    for line in done.stdout.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        flags[name] = value.strip('"')
    return flags

# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of the source, in which a diff is applied and taken back; the original stays as it is."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess

from hotpatch.errors import Refused

# The name in a line `--- a/src/x.c<tab>date` or `+++ b/src/x.c`.
_NAME = re.compile(r"^(?:---|\+\+\+) ([^\t\r\n]+)", re.MULTILINE)
_NO_FILE = "/dev/null"
STRIPS = (1, 0, 2)
"""How many directories the names in a diff may have in front, the likeliest first."""


class Diff:
    """A unified diff, as `diff -u`, git and quilt write it."""

    def __init__(self, path: str) -> None:
        """Read the file at `path`; raises Refused for what is no such diff."""
        self.path = path
        try:
            with open(path, "rb") as file:
                self.content = file.read()
        except OSError as error:
            raise Refused(f"{path} can't be read: {error.strerror}", "give a diff") from error
        text = self.content.decode(errors="surrogateescape")
        self._names = [name for name in _NAME.findall(text) if name != _NO_FILE]
        if "GIT binary patch" in text:
            raise Refused(f"{path} changes binary files", "give a diff of source files")
        if not self._names:
            raise Refused(f"{path} has no unified diff", "make it with `diff -u` or `git diff`")

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def files(self, strip: int) -> list[str]:
        """Return the paths that it names, less their first `strip` directories."""
        return list(dict.fromkeys("/".join(n.split("/")[strip:]) for n in self._names))


class Tree:
    """A copy of a source directory."""

    def __init__(self, source: str, path: str) -> None:
        """Copy `source` to `path`, unless it is there already; raises Refused."""
        self.source = source
        self.path = path
        if not os.path.isdir(source):
            raise Refused(f"{source} is no directory", "give the directory of the sources")
        mark = path + ".of"
        digest = _digest(source)
        self.fresh = not os.path.isdir(path) or _text(mark) != digest
        """Whether it was copied now: nothing has been built in it."""
        self.digest = digest
        """Of what the source is."""
        if self.fresh:
            self._copy()

    def renew(self) -> None:
        """Have a copy in which nothing has been built."""
        if not self.fresh:
            self._copy()
            self.fresh = True

    def _copy(self) -> None:
        self.spoil()
        shutil.rmtree(self.path, ignore_errors=True)
        copy = ["cp", "-a", "--reflink=auto", self.source, self.path]
        done = subprocess.run(copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(
                f"{self.source} can't be copied: {done.stderr.strip()}",
                "see --work for another place",
            )

    def keep(self) -> None:
        """Have it used again the next time, as long as the source is what it is."""
        with open(self.path + ".of", "w") as file:
            file.write(self.digest)

    def spoil(self) -> None:
        """Have it copied anew the next time."""
        if os.path.exists(self.path + ".of"):
            os.unlink(self.path + ".of")

    def apply(self, diff: Diff) -> int:
        """Apply a diff; return how many directories its names are stripped of. Raises Refused.

        Either all of it is applied, or nothing.
        """
        tried = [(strip, self._patch(diff, strip, "--dry-run")) for strip in STRIPS]
        for strip, problem in tried:
            if problem is None:
                self._patch(diff, strip)
                return strip
        likely = max(STRIPS, key=lambda strip: self._known(diff, strip))
        problem = dict(tried)[likely] or ""
        applied = self._patch(diff, likely, "--dry-run", "--reverse") is None
        raise Refused(
            f"{diff.path} does not apply to {self.source}: {problem}",
            "the source has it already: give the source of the binary, without it"
            if applied
            else "give the source that the binary was built of, and the diff for that version",
        )

    def _known(self, diff: Diff, strip: int) -> int:
        return sum(os.path.exists(os.path.join(self.path, name)) for name in diff.files(strip))

    def _patch(self, diff: Diff, strip: int, *options: str) -> str | None:
        """Run patch(1); return what it complains of, None for nothing."""
        command = ["patch", "--batch", "--fuzz=0", "--no-backup-if-mismatch", "--forward"]
        try:
            done = subprocess.run(
                [*command, f"--strip={strip}", "--reject-file=-", *options],
                cwd=self.path,
                input=diff.content,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except FileNotFoundError:
            raise Refused("patch(1) was not found", "install patch") from None
        if not done.returncode:
            return None
        lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
        telling = [line for line in lines if "FAILED" in line or "can't find" in line]
        file = next((line for line in lines if line.startswith("checking file")), "")
        return ", ".join(filter(None, (file, *telling[:2]))) or (lines or ["it says nothing"])[0]


def _digest(directory: str) -> str:
    """Return a digest of the names, sizes and times of all files below a directory."""
    found = hashlib.sha256()
    for place, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted(files):
            path = os.path.join(place, name)
            status = os.lstat(path)
            row = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode}\n"
            found.update(row.encode(errors="surrogateescape"))
    return found.hexdigest()


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""

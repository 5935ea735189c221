# SPDX-License-Identifier: GPL-2.0-or-later
"""
A small program with its sources, which a test builds, starts, changes by a diff and patches.

    project = Project(tmp_path, {"main.c": ..., "a.c": ...})
    with project.running() as program:
        assert program.ask("3") == "9"
        built = project.build({"a.c": ("x * 3", "x * 4")})
        program.apply(built)

Its main reads a line and answers with one. A diff is made of replacements of text.
"""

from __future__ import annotations

import difflib
import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import ANSWER_TIMEOUT, ROOT

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int answer(int n, char *out);
int main(void)
{
    char line[100], out[1000];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("READY");
    while (fgets(line, sizeof(line), stdin)) {
        out[0] = 0;
        int n = answer(atoi(line), out);
        if (out[0])
            puts(out);
        else
            printf("%d\\n", n);
    }
    return 0;
}
"""

MAKEFILE = """
CC = {compiler}
CFLAGS = {flags}
SOURCES = $(wildcard *.c) $(wildcard *.cc)
OBJECTS = $(addsuffix .o, $(SOURCES))
prog: $(OBJECTS)
\t$(CC) $(CFLAGS) -o $@ $^ {link}
%.c.o: %.c $(wildcard *.h)
\t$(CC) $(CFLAGS) -c -o $@ $<
%.cc.o: %.cc $(wildcard *.h)
\t$(CC) $(CFLAGS) -c -o $@ $<
"""


class Project:
    """Sources in a directory, and the program that was built of them."""

    def __init__(
        self,
        directory: Path,
        files: Mapping[str, str],
        *,
        compiler: str = "gcc",
        flags: str = "-O2 -g -Wall",
        link: str = "",
        strip: str | None = None,
    ) -> None:
        """Write and build it; `strip` holds options of strip(1) for the program that runs."""
        self.directory = directory
        self.source = directory / "source"
        self.source.mkdir()
        makefile = MAKEFILE.format(compiler=compiler, flags=flags, link=link)
        for name, text in {"main.c": MAIN, "Makefile": makefile, **files}.items():
            (self.source / name).write_text(text)
        built = directory / "built"
        subprocess.run(["cp", "-a", self.source, built], check=True)
        subprocess.run(["make", "-s", "-C", built], check=True)
        self.objects = built
        self.program = directory / "prog"
        (built / "prog").rename(self.program)
        if strip is not None:
            subprocess.run(["strip", *strip.split(), self.program], check=True)

    def diff(self, changes: Mapping[str, tuple[str, str] | str]) -> Path:
        """Write a diff that replaces text in files, each of them once; a string is a new file."""
        path = self.directory / "fix.diff"
        text = ""
        for name, change in changes.items():
            before = "" if isinstance(change, str) else (self.source / name).read_text()
            if not isinstance(change, str):
                assert before.count(change[0]) == 1, f"{change[0]!r} in {name}"
            after = change if isinstance(change, str) else before.replace(*change)
            old = "/dev/null" if isinstance(change, str) else f"a/{name}"
            text += "".join(
                difflib.unified_diff(
                    before.splitlines(True), after.splitlines(True), old, f"b/{name}"
                )
            )
        path.write_text(text)
        return path

    def command(self, changes: Mapping[str, tuple[str, str] | str], *options: str) -> Any:
        """Run `hotpatch build` for a diff; returns exit code and JSON object."""
        return build(
            *("--source", self.source, "--diff", self.diff(changes), "--target", self.program),
            *("--build-command", "make -s", "--work", self.directory / "work"),
            *("-o", self.directory / "fix.so", *options),
        )

    def build(self, changes: Mapping[str, tuple[str, str] | str], *options: str) -> Any:
        """Build a patch, which has to work; returns the JSON object."""
        code, fields = self.command(changes, *options)
        assert code == 0, fields
        assert fields["path"], f"nothing changed: {fields}"
        return fields

    def refusal(self, changes: Mapping[str, tuple[str, str] | str], *options: str) -> str:
        """Return the reason and hint of a build that is refused."""
        code, fields = self.command(changes, *options)
        assert code == 3, fields
        assert not (self.directory / "fix.so").exists()
        return f"{fields['reason']} | {fields['hint']}"

    @contextmanager
    def running(self, cwd: Path | None = None, under: Sequence[str] = ()) -> Iterator[Running]:
        """Start the program, and end it; as the child of a command that `under` begins."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([*under, self.program], text=True, bufsize=1, cwd=cwd, **pipes)
        running = Running(process, self.directory / "fix.so")
        try:
            assert running.line() == "READY"
            if under:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
                running.pid = int(children.read_text())
            yield running
        finally:
            process.kill()
            process.wait()


class Running:
    """The program, as a process."""

    def __init__(self, process: subprocess.Popen[str], patch: Path) -> None:
        """Talk to `process`; `patch` is what it will be patched with."""
        self._process = process
        self._patch = patch
        self.pid = process.pid

    def line(self) -> str:
        """Return a line that it writes."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT)
        assert ready, "the program does not answer"
        return self._process.stdout.readline().rstrip("\n")

    def send(self, question: object) -> None:
        """Write a line."""
        assert self._process.stdin is not None
        print(question, file=self._process.stdin)

    def ask(self, question: object) -> str:
        """Write a line and return the answer."""
        self.send(question)
        return self.line()

    def status(self) -> int:
        """Wait for its end and return how it ended, as subprocess says it."""
        return self._process.wait(ANSWER_TIMEOUT)

    def apply(self) -> Any:
        """Apply the patch by the command, which has to work."""
        return self._command("apply", self.pid, self._patch)

    def revert(self) -> Any:
        """Take it out by the command."""
        return self._command("revert", self.pid)

    def _command(self, *arguments: object) -> Any:
        code, fields = run(*arguments)
        assert code == 0, fields
        return fields


def build(*arguments: object) -> tuple[int, Any]:
    """Run `hotpatch build --json`."""
    return run("build", *arguments)


def run(*arguments: object) -> tuple[int, Any]:
    """Run a command with --json; returns exit code and JSON object."""
    command = [sys.executable, "-m", "hotpatch", arguments[0], "--json", *arguments[1:]]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)

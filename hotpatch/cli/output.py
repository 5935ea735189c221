# SPDX-License-Identifier: GPL-2.0-or-later
"""Where words go: results to stdout, messages to stderr, and with --json one object to stdout.

What was done to a target stands, whether or not anybody can be told. So nothing here raises
for a stream that is closed, a terminal that hung up or a disk that is full; `Output.flush`
says whether the result was written.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

RED, GREEN, YELLOW, CYAN, BOLD = "31", "32", "33", "36", "1"


class Output:
    """The streams of one run of a command, and how it was asked to use them."""

    def __init__(
        self,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        no_color: bool = False,
    ) -> None:
        """Remember the options that say what is printed."""
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.touched = False
        """Whether an update has begun: what fails before has not touched any target."""
        self._color = not no_color and not os.environ.get("NO_COLOR")
        self._failed: OSError | None = None

    def result(self, text: str) -> None:
        """Print a line of the result for people; not with --json or --quiet."""
        if not self.json and not self.quiet:
            self._write(sys.stdout, text + "\n")

    def value(self, value: Any) -> None:
        """Print the result for programs, with --json."""
        if self.json:
            from json import dumps  # noqa: PLC0415

            self._write(sys.stdout, dumps(value, default=list) + "\n")

    def note(self, text: str) -> None:
        """Tell the user something that is no part of the result; not with --quiet."""
        if not self.quiet:
            self.message("note", CYAN, text)

    def warning(self, text: str) -> None:
        """Warn the user; not with --quiet."""
        if not self.quiet:
            self.message("warning", YELLOW, text)

    def message(self, kind: str, color: str, text: str) -> None:
        """Print a message for people."""
        self._write(sys.stderr, f"{self.paint(sys.stderr, color, kind + ':')} {text}\n")

    def line(self, text: str) -> None:
        """Print a line that belongs to a message."""
        self._write(sys.stderr, f"  {text}\n")

    def paint(self, stream: TextIO | None, color: str, text: str) -> str:
        """Return a text in colour, where the stream is a terminal that has some."""
        if self._color and is_terminal(stream):
            return f"\x1b[{color}m{text}\x1b[0m"
        return text

    def paint_result(self, color: str, text: str) -> str:
        """Return a part of a result in colour, where stdout is a terminal that has some."""
        return self.paint(sys.stdout, color, text)

    def _write(self, stream: TextIO | None, text: str) -> None:
        """Write, whatever characters there are; remember that stdout could not be written."""
        if stream is None:
            return
        encoding = stream.encoding or "utf-8"
        try:
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (OSError, ValueError) as error:
            self._discard(stream)
            if stream is sys.stdout and isinstance(error, OSError):
                self._failed = error

    @staticmethod
    def _discard(stream: TextIO) -> None:
        """Let the rest of a stream, and its flush at the exit, go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            pass
        finally:
            os.close(nowhere)

    def written(self) -> bool:
        """Say whether the result could be written, or its reader left without waiting for it."""
        if self._failed is None or isinstance(self._failed, BrokenPipeError):
            return True
        self.message("error", RED, f"the result can't be written: {self._failed.strerror}")
        return False


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether a stream is a terminal that knows escape sequences."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it was closed
        return False


def keep_standard_streams() -> None:
    """Open what is closed of descriptors 0 to 2.

    Else the next file opened, such as a target's memory, would have the number that some library
    takes for its standard error.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

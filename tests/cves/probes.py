# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a flaw is mended, seen from outside: one function for each that can be shown.

A probe is given a server and says whether it behaves as the fixed one does. Vulnerable ones may
crash by it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

PASSWORD = "secret"
Ask = Callable[..., Any]


class Connection:
    """A client of redis (RESP2)."""

    def __init__(self, path: str, *, login: bool = True) -> None:
        """Connect to the socket at `path`."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self._file = self.socket.makefile("rb")
        if login:
            self.ask("AUTH", PASSWORD)

    def ask(self, *words: str | bytes) -> Any:
        """Send a command and return its answer; an error is returned as text."""
        self.send(*words)
        return self.answer()

    def send(self, *words: str | bytes) -> None:
        """Send a command."""
        raw = [word.encode() if isinstance(word, str) else word for word in words]
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)
        self.socket.sendall(b"*%d\r\n%s" % (len(raw), parts))

    def line(self) -> bytes:
        """Return a line of an answer as it comes; raises ConnectionError at the end."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server has closed the connection")
        return line[:-2]

    def answer(self) -> Any:
        """Return an answer."""
        line = self.line()
        kind, text = line[:1], line[1:].decode("latin-1")
        if kind == b"$":
            size = int(text)
            return None if size < 0 else self._file.read(size + 2)[:-2].decode("latin-1")
        if kind == b"*":
            return [self.answer() for _ in range(int(text))]
        return int(text) if kind == b":" else text

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self.socket.close()


def _selector(word: str) -> Callable[[str], bool]:
    def probe(path: str) -> bool:
        return "Syntax error" in Connection(path).ask("ACL", "SETUSER", "somebody", word)

    return probe


def _tohex(path: str) -> bool:
    script = "return bit.tohex(65535, -2147483648)"
    return bool(Connection(path).ask("EVAL", script, "0") == "0000FFFF")


def _unauthenticated(path: str) -> bool:
    """Ask without a password, and never read: the answers may not pile up."""
    connection = Connection(path, login=False)
    connection.socket.settimeout(3)
    try:
        for _ in range(400):
            connection.socket.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$1\r\n5\r\n" * 1000)
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def _hyperloglog(path: str) -> bool:
    """Count the elements of one whose run lengths overflow."""
    runs = bytes((0b01000000 | 0x3F, 0xFF)) * (131072 + 1000)
    value = b"HYLL" + bytes((1, *(0,) * 11)) + runs + b"\xff"
    connection = Connection(path)
    connection.ask("SET", "hll", value)
    return "INVALIDOBJ" in str(connection.ask("PFCOUNT", "hll", "hll"))


def _unpack(path: str) -> bool:
    script = "return {pcall(unpack, {}, -2147483647, 2147483647)}"
    return "too many results" in str(Connection(path).ask("EVAL", script, "0"))


def _injection(path: str) -> bool:
    """Have a part of a request come back as an answer of its own."""
    connection = Connection(path)
    connection.send("FUNCTION", "LIST", "X\r\n+INJECTED")
    return b"INJECTED" in connection.line()


_STREAM = bytes.fromhex(
    "0f011000000000000000010000000000000000252500 00000a00010100010101856669656c6406000102010001"
    "00018576616c75650604 01ff0101000107 6d7967726f75700100010000000000000001000000000000000 04a79"
    "898f9f01000001020963 6f6e73756d6572414a79898f9f010000010000000000000001000000000000000009"
    "636f6e73756d657242 5479898f9f0100000100000000000000010000000000000000090 0f6ea7b6cb8b8d8b4"
    .replace(" ", "")
)  # fmt: skip


def _shared_nack(path: str) -> bool:
    """Restore a stream of which two consumers have the same entry."""
    connection = Connection(path)
    connection.ask("DEBUG", "SET-SKIP-CHECKSUM-VALIDATION", "1")
    return "Bad data format" in str(connection.ask("RESTORE", "mystream", "0", _STREAM))


PROBES: dict[str, Callable[[str], bool]] = {
    "CVE-2024-31449": _tohex,
    "CVE-2024-31227": _selector("%~"),
    "CVE-2024-51741": _selector("%"),
    "CVE-2025-21605": _unauthenticated,
    "CVE-2025-32023": _hyperloglog,
    "CVE-2025-46817": _unpack,
    "CVE-2025-67733": _injection,
    "CVE-2026-66373": _shared_nack,
}

NOT_SHOWN = {
    "CVE-2024-31228": "shown by the other two of its patch",
    "CVE-2024-46981": "a use after free, by chance",
    "CVE-2025-27151": "redis-check-aof, which is a process of its own",
    "CVE-2025-48367": "accept(2) has to fail",
    "CVE-2025-46819": "takes gigabytes of memory",
    "CVE-2025-49844": "a use after free, by chance",
    "CVE-2026-21863": "the cluster bus, which is off here",
    "CVE-2026-92925": "the cluster bus, which is off here",
    "CVE-2026-23631": "needs a replica in the middle of a full synchronisation",
    "CVE-2026-25243": "takes gigabytes of memory",
    "CVE-2026-81934": "a use after free in TLS, by chance",
    "CVE-2023-46852": "the proxy, which is off here",
    "CVE-2026-47783": "a difference of timing",
    "CVE-2026-47784": "a difference of timing",
}

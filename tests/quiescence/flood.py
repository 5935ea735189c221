# SPDX-License-Identifier: GPL-2.0-or-later
"""A load that keeps a server busy: requests without end, of which no answer is waited for.

    python flood.py SOCKET CONNECTIONS REQUESTS

sends the contents of the file REQUESTS over and over on each connection to a Unix socket, as fast
as it is taken, and throws away what comes back. It says READY when every connection has been
answered, and ends with an error when one is closed.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
from pathlib import Path

_AT_ONCE = 1 << 16


class _Connection:
    """A connection; `sent` is how much of the text it has sent this time."""

    def __init__(self, path: str, text: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self._text = memoryview(text)
        self._sent = 0

    def send(self) -> None:
        self._sent += self.socket.send(self._text[self._sent :])
        self._sent %= len(self._text)

    def receive(self) -> None:
        if not self.socket.recv(1 << 20):
            raise SystemExit("the server has closed a connection")


def main(path: str, connections: str, requests: str) -> None:
    """Send until killed. Each connection is opened when those before have been answered."""
    text = Path(requests).read_bytes()
    text *= _AT_ONCE // len(text) + 1
    missing = int(connections)
    unanswered: set[int] = set()
    with selectors.DefaultSelector() as selector:
        while True:
            if missing and not unanswered:
                connection = _Connection(path, text)
                events = selectors.EVENT_READ | selectors.EVENT_WRITE
                unanswered.add(selector.register(connection.socket, events, connection).fd)
                missing -= 1
            for key, events in selector.select():
                if events & selectors.EVENT_WRITE:
                    key.data.send()
                if events & selectors.EVENT_READ:
                    key.data.receive()
                    if key.fd in unanswered:
                        unanswered.remove(key.fd)
                        if not missing:
                            print(f"READY pid={os.getpid()}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
